import json
import shutil

import plant
import pytest
import torch

from lessonlib.export import _gguf_parity as gguf_parity
from lessonlib.export._gguf_parity import Row, Verified
from lessonlib.export._gguf_parity._texts import strings
from lessonlib.runtime import _language as language
from lessonlib.runtime._paths import dataset_dir, twin_dir
from lessonlib_course import cli, export_cli

GOOD = Row("merged", 1.0, kl=0.0, kl_base=1.0)


@pytest.fixture
def few(monkeypatch):
    """The command on few texts; it takes 10,000 by itself (see test_ten_thousand_texts)."""
    monkeypatch.setattr(gguf_parity, "strings", lambda: strings(60))


@pytest.fixture
def folder(llama_export, tmp_path):
    """A lesson's export with adapter and merged model, without GGUF files."""
    for name in ("adapter", "merged"):
        shutil.copytree(getattr(llama_export, name), tmp_path / "export" / name)
    return tmp_path / "export"


@pytest.fixture
def two_prompts(tmp_path):
    lines = (dataset_dir("customer_support_vi") / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    return str(file)


@pytest.fixture
def asked(monkeypatch):
    """What `verify` was called with, instead of calling it."""
    calls = []

    def verify(model, tokenizer, **options):
        calls.append((model, tokenizer, options))
        return Verified((GOOD,), ("q8_0",), effect=1.0, spread=1.0)

    monkeypatch.setattr(gguf_parity, "verify", verify)
    return calls


def test_a_whole_export_is_in_parity(llama_export, few, two_prompts, capsys):
    assert cli.main(["export", "verify", str(llama_export.adapter.parent), "--prompts", two_prompts]) == 0
    out, err = capsys.readouterr()
    heading = " ".join(out.splitlines()[0].split())
    assert heading == "artifact merged GGUF f32 GGUF f16 GGUF q8_0 GGUF q4_k_m"
    assert "Everything that was compared is in parity." in out and "Not there" not in out
    assert "2 / 2" in next(line for line in out.splitlines() if line.startswith("equal greedy answer"))
    assert "lessonlib: " not in err


def test_a_faulty_file_sets_the_status_and_is_named_on_stderr(
    llama_export, folder, few, two_prompts, capsys, monkeypatch
):
    (folder / "gguf").mkdir()
    fields = {"tokenizer.ggml.eos_token_id": 1796}
    plant.rewritten(llama_export.gguf["q8_0"], folder / "gguf" / "shop-v2-q8_0.gguf", fields)
    monkeypatch.setattr(language, "_chosen", None)
    assert cli.main(["export", "verify", str(folder), "--prompts", two_prompts, "--lang", "vi"]) == 1
    out, err = capsys.readouterr()
    assert "Không có để so sánh: f32, f16, q4_k_m." in out and "đều khớp" not in out
    assert "GGUF q8_0: câu trả lời dừng ở token [1793, 1796, 1800, 1801] (EOS 1796)" in err
    assert "merge: " not in err


def test_an_export_without_gguf_files_says_what_was_not_compared(folder, few, two_prompts, capsys):
    assert cli.main(["export", "verify", str(folder), "--prompts", two_prompts]) == 0
    assert "Not there to compare: f32, f16, q8_0, q4_k_m." in capsys.readouterr().out


def test_what_is_asked_and_compared_by_default(folder, asked, capsys):
    (folder / "gguf").mkdir()
    for name in ("shop-v2-q4_k_m.gguf", "shop-v2-f16.gguf", "shop-v2-iq2.gguf"):
        (folder / "gguf" / name).touch()
    assert cli.main(["export", "verify", str(folder)]) == 0
    ((model, tokenizer, options),) = asked
    assert model.get_base_model().dtype == torch.float32 and not model.training
    assert model.active_peft_config.base_model_name_or_path == str(twin_dir("llama32"))
    assert tokenizer.chat_template and "texts" not in options
    assert options["merged"] == folder / "merged"
    assert {kind: file.name for kind, file in options["gguf"].items()} == {
        "q4_k_m": "shop-v2-q4_k_m.gguf", "f16": "shop-v2-f16.gguf",
    }
    assert options["template_options"] == {"date_string": "26 Jul 2024"}
    prompts = options["prompts"]
    assert len(prompts) == len(set(prompts)) == 8
    assert sum("Bạn là nhân viên" in prompt for prompt in prompts) == 4
    assert all("Today Date: 26 Jul 2024" in prompt for prompt in prompts)
    assert all(prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n") for prompt in prompts)
    assert "Of an unknown kind, left out: shop-v2-iq2.gguf." in capsys.readouterr().out
    assert not (folder / "runs").exists() and sorted(file.name for file in folder.iterdir()) == [
        "adapter", "gguf", "merged",
    ]


def test_ten_thousand_texts(monkeypatch):
    """`verify` without texts takes those of `strings()`."""
    seen = []

    class Stop(Exception):
        pass

    def ask(*arguments, texts, **options):
        seen.extend(texts)
        raise Stop

    monkeypatch.setattr(gguf_parity.compare, "ask_trained", ask)
    monkeypatch.setattr(gguf_parity, "_check_arguments", lambda *arguments: None)
    with pytest.raises(Stop):
        gguf_parity.verify(None, None, prompts=["a"], merged="b")
    assert len(set(seen)) == 10_000


def test_another_base_and_its_quantisation_can_be_named(folder, asked, tmp_path, two_prompts):
    moved = shutil.copytree(twin_dir("llama32"), tmp_path / "moved")
    settings = folder / "adapter" / "adapter_config.json"
    content = json.loads(settings.read_text()) | {"base_model_name_or_path": "/no/such/folder"}
    settings.write_text(json.dumps(content))
    arguments = ["export", "verify", str(folder), "--prompts", two_prompts, "--base", str(moved)]
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--quantisation", "nf4"]) == 0
    (plain, _, _), (quantised, _, options) = asked
    assert not getattr(plain.get_base_model(), "is_loaded_in_4bit", False)
    assert quantised.get_base_model().is_loaded_in_4bit
    assert len(options["prompts"]) == 2


def refused(capsys, *arguments):
    assert cli.main(["export", "verify", *map(str, arguments)]) == 1
    return capsys.readouterr().err


def test_what_is_missing_is_named_with_its_cure(folder, tmp_path, capsys, two_prompts):
    assert "no-such has no adapter/adapter_config.json" in refused(capsys, tmp_path / "no-such")
    assert "There is no file" in refused(capsys, folder, "--prompts", tmp_path / "gone.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n{"text": "a"}\n')
    said = refused(capsys, folder, "--prompts", tmp_path / "bad.jsonl")
    assert "bad.jsonl, line 2: needs a JSON object with 'messages' (KeyError('messages'))." in said
    (tmp_path / "bad.jsonl").write_text("[1]\n")
    assert "line 1: needs a JSON object" in refused(capsys, folder, "--prompts", tmp_path / "bad.jsonl")

    (folder / "gguf").mkdir()
    for name in ("a-f16.gguf", "b-f16.gguf"):
        (folder / "gguf" / name).touch()
    assert "two GGUF files of the kind f16: a-f16.gguf and b-f16.gguf" in refused(capsys, folder)
    shutil.rmtree(folder / "gguf")
    shutil.rmtree(folder / "merged")
    assert "holds the adapter alone: there is no merged/ and no gguf/*.gguf" in refused(capsys, folder)


def test_a_base_that_has_moved_is_named_with_its_cure(folder, capsys, tmp_path):
    settings = folder / "adapter" / "adapter_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"base_model_name_or_path": "/no/such/folder"}))
    said = refused(capsys, folder)
    assert "base model is no longer at /no/such/folder. Say where it is with --base." in said
    damaged = shutil.copytree(twin_dir("llama32"), tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"")
    assert str(damaged) in refused(capsys, folder, "--base", damaged)
    said = refused(capsys, folder, "--base", "no-such-owner/no-such-model")
    assert "The Hub cannot be reached for no-such-owner/no-such-model." in said
    (damaged / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(ValueError, match="no such"):  # nothing that is known: it stays loud
        cli.main(["export", "verify", str(folder), "--base", str(damaged)])


def test_the_default_dataset_has_eight_conversations_for_it():
    rows = export_cli._conversations(None)
    assert sorted(rows["language"]) == ["en"] * 4 + ["vi"] * 4
    assert len(set(rows["intent"])) >= 4
