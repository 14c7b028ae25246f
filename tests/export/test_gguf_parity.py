"""An intact export is in parity; each planted fault is caught, and by the check that is there for it."""

import json
import math
import os
import shutil
import signal
import subprocess
import unicodedata
from dataclasses import replace

import plant
import pytest
import torch
from exported import tuned

from lessonlib.data._splits import load_chats
from lessonlib.evaluation._parity import OUTLIER, ROUNDING
from lessonlib.export import _gguf as gguf
from lessonlib.export import _gguf_parity as gguf_parity
from lessonlib.export import _saving as export
from lessonlib.export._gguf_parity import (
    GgufModel,
    Row,
    Verified,
    conversations,
    strings,
    verify,
)
from lessonlib.export._gguf_parity import (
    _child as child,
)
from lessonlib.export._gguf_parity import (
    _compare as compare,
)
from lessonlib.export._gguf_parity._compare import ask_trained
from lessonlib.export._gguf_parity._texts import unspelled
from lessonlib.formatting import _chat as chat
from lessonlib.runtime import _language as language
from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError, Translated
from lessonlib.runtime._paths import twin_dir

OPTIONS = {"date_string": "26 Jul 2024"}
FEW = strings(240)  # twenty of each kind


def row_of(found, name):
    (row,) = [row for row in found.rows if row.name == name]
    return row


@pytest.fixture(scope="module")
def trained():
    return tuned()


@pytest.fixture(scope="module")
def prompts(trained):
    rows = load_chats("customer_support_vi")["test"]
    asked, _ = chat.prompts(rows.select([0, 9, 22, 43]), trained[1], template_options=OPTIONS)
    return asked


@pytest.fixture(scope="module")
def asked_once():
    """`ask_trained`, which remembers the answer to the questions that most tests ask."""
    remembered = {}

    def ask(model, tokenizer, prompts, **options):
        key = (id(model), *prompts, len(options["texts"]), options["max_new_tokens"])
        if key not in remembered:
            remembered[key] = ask_trained(model, tokenizer, prompts, **options)
        return remembered[key]

    return ask


@pytest.fixture
def check(trained, prompts, asked_once, monkeypatch):
    """Verifies a few artifacts on a few texts."""
    monkeypatch.setattr(compare, "ask_trained", asked_once)

    def run(**options):
        defaults = {"prompts": prompts, "texts": FEW, "template_options": OPTIONS}
        return verify(*trained, **defaults | options)

    return run


@pytest.fixture
def planted(llama_export, check, tmp_path):
    """The row of the f32 file (or another) with one thing changed."""

    def run(fields=None, *, drop=None, kind="f32"):
        file = plant.rewritten(llama_export.gguf[kind], tmp_path / f"faulty-{kind}.gguf", fields, drop=drop)
        return row_of(check(gguf={kind: file}), kind)

    return run


# ---------------------------------------------------------------- an intact export


@pytest.fixture(scope="module")
def whole(llama_export, trained, prompts):
    return verify(
        *trained, prompts=prompts, merged=llama_export.merged, gguf=llama_export.gguf,
        template_options=OPTIONS,
    )


def test_an_intact_export_is_in_parity_over_ten_thousand_texts(whole):
    assert [row.name for row in whole.rows] == ["merged", "f32", "f16", "q8_0", "q4_k_m"]
    assert (whole.ok, whole.problems, whole.missing, whole.not_compared) == (True, [], (), "")
    for row in whole.rows:
        assert row.texts >= 10_000 and row.wrong_texts == 0, row.first_wrong
        assert (row.conversations, row.wrong_conversations) == (8, 0)
        assert row.stops == {1793, 1800, 1801} and row.eos == 1801  # end_of_text, eom, eot
        assert row.positions > 300
    whole.raise_if_broken()


def test_rounding_is_what_the_number_format_says(whole):
    merged, f32, f16, q8_0, q4_k_m = whole.rows
    assert {row.spread for row in whole.rows} == {whole.spread}
    assert merged.tolerance == f32.tolerance == pytest.approx(3e-5 * whole.spread)
    assert f16.tolerance == pytest.approx(5e-3 * whole.spread)
    assert merged.usual_difference < f32.tolerance and f32.usual_difference < f32.tolerance
    assert f32.tolerance < f16.usual_difference < f16.tolerance
    for row in (merged, f32, f16):
        assert row.mean_difference < row.usual_difference <= row.max_difference
        assert row.top1 > 0.99 and row.greedy_broken == 0
        assert row.greedy_equal == row.prompts == 4
    assert q8_0.tolerance is None and q4_k_m.tolerance is None
    assert abs(f32.kl) < f16.kl < q8_0.kl < q4_k_m.kl < whole.effect
    assert q4_k_m.top1 < q8_0.top1 and q8_0.top1 > 0.9


def test_every_file_is_nearer_to_the_trained_model_than_to_the_base(whole):
    for row in whole.rows:
        assert row.kl < row.kl_base
        assert row.kl_base == pytest.approx(whole.effect, rel=0.8)
    assert row_of(whole, "f32").kl_base == pytest.approx(whole.effect, rel=0.2)  # KL is not symmetric


def test_sizes_are_those_of_the_files(whole, llama_export):
    for kind, file in llama_export.gguf.items():
        assert row_of(whole, kind).megabytes == file.stat().st_size / 1e6
    weights = llama_export.merged / "model.safetensors"
    assert row_of(whole, "merged").megabytes == weights.stat().st_size / 1e6


def test_the_numbers_are_the_definitions_written_out(llama_export, trained, prompts, check):
    """KL, top-1 and differences of one file, from logits that are asked for here."""
    model, tokenizer = trained
    (row,) = check(gguf={"q8_0": llama_export.gguf["q8_0"]}, prompts=prompts[:1], max_new_tokens=4).rows
    ids = tokenizer(prompts[0], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        said = model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False, pad_token_id=1796)
        said = said[0].tolist()
        while said[-1] in (1793, 1800, 1801):
            said.pop()
        ours = model(torch.tensor([said])).logits[0]
    with GgufModel(llama_export.gguf["q8_0"], context=256, threads=1) as file:
        theirs = torch.from_numpy(file.follow(said, [], max_new_tokens=0)[1])
    ours, theirs = ours[-132:], theirs[-132:]
    assert row.positions == len(ours) == min(len(said), 132)
    p, q = ours.double().softmax(-1), theirs.double().softmax(-1)
    assert row.kl == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-3)
    assert row.top1 == pytest.approx((ours.argmax(-1) == theirs.argmax(-1)).double().mean().item())
    assert row.mean_difference == pytest.approx((ours - theirs).abs().mean().item(), rel=1e-3)
    assert row.max_difference == pytest.approx((ours - theirs).abs().max().item(), rel=1e-3)
    worst = (ours - theirs).abs().max(-1).values
    assert row.usual_difference == pytest.approx(worst.sort().values.quantile(0.99).item(), rel=1e-3)


def test_the_trained_model_is_as_before(llama_export, trained, prompts):
    model, tokenizer = trained
    flags = [module.training for module in model.modules()]
    ids = torch.tensor([[1792, 5, 6, 7]])
    with torch.no_grad():
        before = model(ids).logits
        assert verify(
            model, tokenizer, prompts=prompts[:1], texts=FEW[:9], merged=llama_export.merged, max_new_tokens=4
        ).ok
        assert torch.equal(model(ids).logits, before)
    assert [module.training for module in model.modules()] == flags


def test_a_table_and_a_page_for_a_notebook(whole):
    table = whole.table()
    assert list(table.index) == ["merged", "GGUF f32", "GGUF f16", "GGUF q8_0", "GGUF q4_k_m"]
    assert list(table["in parity"]) == ["yes"] * 5
    assert list(table["tolerance"]) == ["1e-04", "1e-04", "2e-02", "-", "-"]
    assert table["wrong token ids"].iloc[0].startswith("0 / 10,0")
    assert "GGUF q4_k_m" in str(whole) and "<table" in whole._repr_html_()
    language.use("vi")
    assert list(whole.table()["khớp nhau"]) == ["có"] * 5 and whole.table().index[0] == "merge"


# ---------------------------------------------------------------- planted faults


def test_a_file_without_rope_freqs_is_caught_by_its_logits_alone(planted):
    row = planted(drop="rope_freqs.weight")
    assert row.failed == ["logits"] or row.failed == ["logits", "greedy"]
    assert row.usual_difference > 50 * row.tolerance and "logits" in row.broken
    assert row.greedy_equal >= row.prompts - 1  # answers hardly show it: equal text proves little
    assert row.top1 > 0.95 and row.kl < row.kl_base and row.wrong_texts == 0


def test_a_wrong_pre_tokenizer_is_caught_by_token_ids_alone(planted):
    row = planted({"tokenizer.ggml.pre": "gpt-2"})
    assert row.failed == row.broken == ["token_ids"]
    assert row.wrong_texts > 5 and row.greedy_equal == row.prompts  # fed with ids, it answers as it should
    said, wanted, found = row.first_wrong
    assert wanted != found and said


def test_vietnamese_in_nfd_shows_a_wrong_pre_tokenizer(llama_export, trained, tmp_path):
    said = [text for text in strings(3000) if text == unicodedata.normalize("NFD", text)]
    said = [text for text in said if "\u0323" in text and text.lstrip("“").isprintable()]
    wanted = trained[1](said)["input_ids"]
    fields = {"tokenizer.ggml.pre": "gpt-2"}
    faulty = plant.rewritten(llama_export.gguf["q8_0"], tmp_path / "faulty.gguf", fields)
    for file, same in ((llama_export.gguf["q8_0"], True), (faulty, False)):
        with GgufModel(file, context=64, threads=1) as model:
            assert (model.token_ids(said) == wanted) is same


def test_a_wrong_rope_theta_is_caught_by_logits(planted):
    row = planted({"llama.rope.freq_base": 10_000.0})
    assert "logits" in row.failed and set(row.failed) <= {"logits", "greedy", "effect"}
    assert row.usual_difference > 1000 * row.tolerance and row.broken == row.failed


def test_a_wrong_norm_epsilon_is_caught_by_logits(planted):
    row = planted({"llama.attention.layer_norm_rms_epsilon": 1e-6})
    assert "logits" in row.failed and set(row.failed) <= {"logits", "greedy"}
    assert row.usual_difference > 5 * row.tolerance


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize("kind", ["f32", "q4_k_m"])
def test_a_different_chat_template_is_caught_by_rendering(planted, kind):
    row = planted({"tokenizer.chat_template": CHATML}, kind=kind)
    assert row.failed == row.broken == ["template"] and row.wrong_conversations == row.conversations
    assert row.first_rendered[0].startswith("<|im_start|>user")
    assert row.first_rendered[1].startswith("<|begin_of_text|>")
    (reason,) = row.reasons
    said = reason.en
    assert said.startswith("the chat template writes 8 of 8 conversations otherwise than in training: '<|im_")


def test_a_template_that_differs_in_one_place_is_caught(planted, trained):
    """It forgets to trim what was said."""
    template = trained[1].chat_template
    trimmed = "turn(message['role'], message['content'] | trim)"
    assert template.count(trimmed) == 1
    row = planted({"tokenizer.chat_template": template.replace(trimmed, trimmed.replace(" | trim", ""))})
    assert row.failed == row.broken == ["template"] and 0 < row.wrong_conversations < row.conversations


def test_a_lost_template_is_caught(planted):
    row = planted({"tokenizer.chat_template": None})
    assert row.failed == row.broken == ["template"] and row.first_rendered[0] is None
    assert "otherwise than in training: - instead of '<|begin_of_text|>" in row.reasons[0].en


@pytest.mark.parametrize("eos", [None, 1796, 1793], ids=["left out", "padding", "end of text"])
def test_a_lost_eos_is_caught_by_stop_tokens_alone(planted, eos):
    """llama.cpp finds <|eot_id|> by its name; other readers stop at the EOS that the file names."""
    row = planted({"tokenizer.ggml.eos_token_id": eos}, kind="q8_0")
    assert row.failed == ["stops"] and row.eos != row.wanted_eos == 1801
    (reason,) = row.reasons
    vi, en = reason.vi, reason.en
    assert "[1793, 1800, 1801] (EOS 1801): it will run on, or stop early" in en and "dừng sớm" in vi


def test_an_end_of_turn_that_no_longer_ends_is_caught(llama_export, planted):
    reader = plant.gguf_py().GGUFReader(llama_export.gguf["f32"])
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    tokens[1801] = "<|not_eot|>"
    row = planted({"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": 1793})
    assert {"stops", "token_ids"} <= set(row.failed)
    assert row.stops == {1793, 1800} and 1801 in row.wanted_stops


@pytest.fixture(scope="module")
def base_files(tmp_path_factory):
    """GGUF files of the base, as they come out when the adapter was forgotten."""
    folder = tmp_path_factory.mktemp("base")
    return gguf.make(twin_dir("llama32"), folder, name="base", kinds=("f16", "q4_k_m"), say=str)


def test_the_base_instead_of_the_tuned_model_is_caught_even_in_4_bits(check, base_files):
    found = check(gguf=base_files)
    assert not found.ok and found.missing == ("merged", "f32", "q8_0")
    assert row_of(found, "q4_k_m").failed == ["effect"]
    assert {"effect", "logits"} <= set(row_of(found, "f16").failed)
    for row in found.rows:
        assert row.kl_base < row.kl
    assert "GGUF q4_k_m: nearer to the base (KL" in found.problems[-1]
    with pytest.raises(LessonError, match="the base was exported without the adapter"):
        found.raise_if_broken()


def test_the_base_saved_as_merged_is_caught(check, llama_export, tmp_path):
    shutil.copytree(llama_export.merged, tmp_path / "merged")
    shutil.copy(twin_dir("llama32") / "model.safetensors", tmp_path / "merged")
    row = row_of(check(merged=tmp_path / "merged"), "merged")
    assert {"effect", "logits"} <= set(row.failed) and row.kl_base == pytest.approx(0, abs=1e-9)


def test_another_models_tokenizer_in_the_merged_folder_is_caught(check, llama_export, tmp_path):
    shutil.copytree(llama_export.merged, tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(twin_dir("phi3") / name, tmp_path / "merged")
    row = row_of(check(merged=tmp_path / "merged"), "merged")
    assert row.failed == ["token_ids", "template", "stops"]
    assert row.wrong_texts == row.texts and row.eos != 1801


def test_a_lost_eos_in_the_merged_folder_is_caught(check, llama_export, tmp_path):
    shutil.copytree(llama_export.merged, tmp_path / "merged")
    settings = tmp_path / "merged" / "generation_config.json"
    content = json.loads(settings.read_text())
    assert content["eos_token_id"] == [1801, 1793, 1800]
    settings.write_text(json.dumps(content | {"eos_token_id": 1793}))
    assert row_of(check(merged=tmp_path / "merged"), "merged").failed == ["stops"]


# ---------------------------------------------------------------- what cannot be read


def test_a_cut_file_is_a_row_that_says_so(check, llama_export, tmp_path):
    whole = llama_export.gguf["q8_0"].read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    shutil.copytree(llama_export.merged, tmp_path / "merged")
    (tmp_path / "merged" / "model.safetensors").write_bytes(b"")
    found = check(gguf={"q8_0": tmp_path / "cut.gguf"}, merged=tmp_path / "merged")
    assert [row.failed for row in found.rows] == [["loads"], ["loads"]] and not found.ok
    assert f"merged: {tmp_path / 'merged'} cannot be loaded: " in found.problems[0]
    assert f"GGUF q8_0: llama.cpp cannot open {tmp_path / 'cut.gguf'}: " in found.problems[1]
    assert "corrupted or incomplete" in found.problems[1]  # llama.cpp's own reason
    assert list(found.table()["wrong token ids"]) == ["-", "-"]
    language.use("vi")
    assert "Hãy merge lại." in found.problems[0] and "không mở được" in found.problems[1]


def test_a_merged_model_whose_logits_are_no_numbers_is_a_row_that_says_so(check, llama_export, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(llama_export.merged, tmp_path / "merged")
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, tmp_path / "merged" / "model.safetensors", metadata={"format": "pt"})
    found = check(merged=tmp_path / "merged")
    assert row_of(found, "merged").failed == ["loads"] and "logits are NaN or infinite" in found.problems[0]


def test_an_unknown_pre_tokenizer_is_a_row_with_llama_cpp_s_reason(planted):
    row = planted({"tokenizer.ggml.pre": "no-such-thing"})
    assert row.failed == ["loads"] and "unknown pre-tokenizer type: 'no-such-thing'" in row.unreadable.en


def test_another_model_s_export_is_a_row_that_says_so(llama_export, tiny_llama, tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    found = verify(
        model, tokenizer, prompts=["Học máy là gì?"], texts=["token"], merged=llama_export.merged,
        gguf={"f16": llama_export.gguf["f16"]}, max_new_tokens=2,
    )
    words = f"its vocabulary has 2048 tokens, the trained model's {len(tokenizer)}"
    assert [row.failed for row in found.rows] == [["loads"], ["loads"]]
    assert all(words in problem for problem in found.problems)


# ---------------------------------------------------------------- a file that ends llama.cpp


@pytest.fixture
def started(monkeypatch):
    """The processes that were started; afterwards none of them runs."""
    processes = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            processes.append(self)

    monkeypatch.setattr(child.subprocess, "Popen", Popen)
    yield processes
    assert processes and all(process.returncode is not None for process in processes)


def test_every_file_is_read_in_one_process_of_its_own(check, llama_export, started):
    files = {kind: llama_export.gguf[kind] for kind in ("f16", "q8_0")}
    assert check(gguf=files).ok and len(started) == 2


def test_a_vocabulary_at_which_llama_cpp_aborts_is_a_row_that_says_so(planted, started):
    """Read as SentencePiece's, the vocabulary has no token for the bytes of a space: std::out_of_range."""
    row = planted({"tokenizer.ggml.model": "llama"})
    assert row.failed == ["loads"]
    said = r"died \(SIGABRT\) while tokenising with .*faulty-f32.gguf\. Export this file again\. If that does"
    with pytest.raises(LessonError, match=said) as raised:
        Verified((row,), (), effect=0.5, spread=2.0).raise_if_broken()
    assert "std::out_of_range" in raised.value.en  # llama.cpp's own last words
    assert "dừng đột ngột (SIGABRT) khi đang tách token" in raised.value.vi
    assert "Hãy xuất lại" in raised.value.vi


def test_a_process_that_is_killed_says_what_it_was_doing(llama_export, started):
    with GgufModel(llama_export.gguf["q8_0"], context=64, threads=1) as model:
        assert model.token_ids(["abc"]) == [[1792, 64, 65, 66]]
        os.kill(started[0].pid, signal.SIGKILL)
        said = r"died \(SIGKILL\) while computing with .*q8_0.gguf\. Mostly the memory was full: close other"
        with pytest.raises(LessonError, match=said):
            model.follow([1792, 64], [], max_new_tokens=2)


def test_a_process_that_ends_while_it_loads_says_so(llama_export, started, monkeypatch):
    dying = "import sys; sys.stdin.readline(); print('GGML_ASSERT failed', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr(child, "SERVE", dying)
    said = r"died \(exit 3\) while opening .*\. Export this file again\. The last .*: GGML_ASSERT failed"
    with pytest.raises(LessonError, match=said):
        GgufModel(llama_export.gguf["q8_0"], context=64, threads=1)


def test_an_interrupt_leaves_no_process(llama_export, started, monkeypatch):
    """While it loads, and while it computes."""

    def interrupted(*_):
        raise KeyboardInterrupt

    whole = child.json.loads
    monkeypatch.setattr(child.json, "loads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        GgufModel(llama_export.gguf["q8_0"], context=64, threads=1)
    monkeypatch.setattr(child.json, "loads", whole)
    with (
        pytest.raises(KeyboardInterrupt),
        GgufModel(llama_export.gguf["q8_0"], context=64, threads=1) as model,
    ):
        monkeypatch.setattr(child.json, "loads", interrupted)
        model.token_ids(["abc"])
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


# ---------------------------------------------------------------- bytes without a token


def without(tokenizer, renamed):
    """A copy of a tokenizer in whose vocabulary some tokens have another name, and no merge knows them."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    model["vocab"] = {renamed.get(token, token): at for token, at in model["vocab"].items()}
    gone = set(renamed)
    model["merges"] = [pair for pair in model["merges"] if not gone & {*pair, "".join(pair)}]
    made = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    made._tokenizer = Tokenizer.from_str(json.dumps(content))
    return made


def test_a_vocabulary_without_some_bytes_is_compared_on_what_it_can_spell(
    trained, llama_export, prompts, started, tmp_path
):
    """As SmolLM2's: neither the tokenizer nor the file made of it has a token for them."""
    renamed = {"ð": "<gone-f0>", "č": "<gone-0d>"}  # of the bytes 0xF0 (emoji) and 0x0D (CR)
    tokens = plant.gguf_py().GGUFReader(llama_export.gguf["q8_0"]).fields["tokenizer.ggml.tokens"].contents()
    tokens = [renamed.get(token, token) for token in tokens]
    file = plant.rewritten(
        llama_export.gguf["q8_0"], tmp_path / "few.gguf", {"tokenizer.ggml.tokens": tokens}
    )
    tokenizer = without(trained[1], renamed)
    assert tokenizer("a🔥")["input_ids"] != trained[1]("a🔥")["input_ids"]
    found = verify(
        trained[0], tokenizer, prompts=prompts[:1], texts=FEW, gguf={"q8_0": file}, max_new_tokens=4,
        template_options=OPTIONS,
    )  # fmt: skip
    (row,) = found.rows
    needing = [said for said in FEW if {0xF0, 0x0D} & set(said.encode())]
    assert found.ok and row.left_out >= len(needing) > 20
    assert row.texts + row.left_out == len(FEW) + 9  # the prompt and eight conversations
    assert f"Not given to llama.cpp: {row.left_out} of {len(FEW) + 9} texts, as this" in found.not_compared
    assert "has no token for the bytes 0x0D 0xF0; that is no fault" in found.not_compared
    assert found.not_compared in str(found) and "Not there to compare: merged" in found.not_compared
    language.use("vi")
    assert f"{row.left_out} trên {len(FEW) + 9} chuỗi" in found.not_compared


def test_a_file_that_lost_bytes_which_training_had_is_a_fault(llama_export, planted):
    tokens = plant.gguf_py().GGUFReader(llama_export.gguf["f32"]).fields["tokenizer.ggml.tokens"].contents()
    tokens[tokens.index("ð")] = "<gone-f0>"
    row = planted({"tokenizer.ggml.tokens": tokens})
    assert row.failed == ["token_ids"] and row.left_out == 0
    assert 0xF0 in row.first_wrong[0].encode()


def test_bytes_that_a_byte_level_vocabulary_lacks(trained):
    tokenizer = without(trained[1], {"ð": "<gone-f0>", "Ċ": "<gone-0a>", "ÿ": "<gone-ff>"})
    said = ["abc", "a\nb", "🔥", "đ", "🔥\n"]
    assert unspelled(tokenizer, said) == {1: {0x0A}, 2: {0xF0}, 4: {0x0A, 0xF0}}
    assert unspelled(trained[1], said) == {}


@pytest.mark.parametrize("twin", ["llama32", "phi3", "gemma2", "bloom"])
def test_the_twins_vocabularies_spell_everything(twin):
    from transformers import AutoTokenizer

    assert unspelled(AutoTokenizer.from_pretrained(twin_dir(twin)), [*FEW, "\x00\x7f\xad"]) == {}


def test_bytes_that_a_sentencepiece_vocabulary_lacks():
    """A character with a token of its own needs no bytes."""
    from transformers import AutoTokenizer

    tokenizer = without(
        AutoTokenizer.from_pretrained(twin_dir("phi3")), {"<0xF0>": "<gone>", "<0x61>": "<gone-a>"}
    )
    assert unspelled(tokenizer, ["a b", "🔥", "đ", "\n"]) == {1: {0xF0}}


# ---------------------------------------------------------------- number formats


def test_the_coarsest_number_format_on_the_way_sets_the_tolerance(
    trained, llama_export, check, tmp_path, monkeypatch
):
    model, tokenizer = trained
    export.merge(model, tokenizer, tmp_path / "half", dtype=torch.float16)
    found = check(merged=tmp_path / "half", gguf={"f32": llama_export.gguf["f32"]})
    assert [row.tolerance for row in found.rows] == [5e-3 * found.spread] * 2
    assert found.ok and row_of(found, "merged").usual_difference > 1e-4
    monkeypatch.setitem(ROUNDING, "float32", 1e-7)
    monkeypatch.setitem(ROUNDING, "float16", 3e-5)
    strict = check(merged=tmp_path / "half", gguf={"f32": llama_export.gguf["f32"]})
    assert [row.tolerance for row in strict.rows] == [3e-5 * found.spread] * 2
    assert "logits" in row_of(strict, "merged").failed and row_of(strict, "f32").ok


def test_a_model_that_computes_in_16_bits_gets_three_times_the_tolerance(tiny_llama, tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_llama, settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(0))
    export.merge(model, tokenizer, tmp_path / "merged")
    ask = {"prompts": ["Học máy là gì?"], "texts": FEW[:20], "max_new_tokens": 4}
    found = verify(model.to(torch.bfloat16), tokenizer, merged=tmp_path / "merged", **ask)
    (row,) = found.rows
    assert row.tolerance == pytest.approx(0.12 * found.spread) and row.ok
    assert row.conversations == 8 and row.wrong_conversations == 0  # neither has a template


# ---------------------------------------------------------------- a learner's mistakes


def test_what_cannot_be_compared_is_refused(trained, llama_export, check, tmp_path, monkeypatch):
    model, tokenizer = trained
    with pytest.raises(LessonError, match="LlamaForCausalLM is no PeftModel"):
        verify(model.get_base_model(), tokenizer, prompts=["a"], merged=llama_export.merged)
    with pytest.raises(LessonError, match="At least one prompt is needed"):
        check(prompts=[], merged=llama_export.merged)
    with pytest.raises(LessonError, match="There is nothing to compare: pass merged="):
        check()
    with pytest.raises(LessonError, match="is not the folder of a merged model"):
        check(merged=llama_export.adapter)
    with pytest.raises(LessonError, match="There is no GGUF kind 'q5_1' here. The kinds are f32, f16, q8_0"):
        check(gguf={"q5_1": llama_export.gguf["f16"]})
    with pytest.raises(LessonError, match="template_options have to be values of JSON .*set is not JSON"):
        check(gguf=llama_export.gguf, template_options={"date_string": set()})
    with pytest.raises(LessonError, match="There is no file .*gone.gguf"):
        check(gguf={"f16": tmp_path / "gone.gguf"})

    def missing():
        raise LessonError(Translated.of(vi="thiếu", en="llama-cpp-python is missing"))

    monkeypatch.setattr(llama_cpp_tools, "check_packages", missing)
    with pytest.raises(LessonError, match="llama-cpp-python is missing"):
        check(gguf=llama_export.gguf)
    assert check(merged=llama_export.merged).ok  # which needs no llama.cpp


def test_an_adapter_without_effect_is_refused(llama_export, prompts):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = twin_dir("llama32")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(LessonError, match="The adapter has no effect: the trained model and its base give"):
        verify(model, tokenizer, prompts=prompts[:1], texts=[], merged=llama_export.merged, max_new_tokens=2)


# ---------------------------------------------------------------- the verdict


GOOD = Row(
    "f32", 1.0, texts=9, conversations=8, stops=frozenset({2}), wanted_stops=frozenset({2}), eos=2,
    wanted_eos=2, positions=50, tolerance=1e-4, usual_difference=5e-5, max_difference=3e-4,
    mean_difference=1e-6, spread=3.0, top1=1.0, kl=1e-9, kl_base=0.5, prompts=3, greedy_equal=3,
)  # fmt: skip
NAN = math.nan


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, []),
        ({"wrong_texts": 1, "first_wrong": ("ạ", [1], [2])}, ["token_ids"]),
        ({"wrong_conversations": 1, "first_rendered": ("a", None)}, ["template"]),
        ({"stops": frozenset({2, 3})}, ["stops"]),
        ({"eos": None}, ["stops"]),
        ({"left_out": 3}, []),
        ({"left_out": 3, "texts": 0}, ["token_ids"]),
        ({"kl": 0.5}, ["effect"]),
        ({"kl": NAN}, ["effect"]),
        ({"kl_base": NAN}, ["effect"]),
        ({"usual_difference": 1.1e-4}, ["logits"]),
        ({"max_difference": 1.1e-3}, ["logits"]),
        ({"usual_difference": NAN, "max_difference": NAN}, ["logits"]),
        ({"tolerance": None, "usual_difference": 9.0, "max_difference": 9.0}, []),
        ({"greedy_broken": 1}, ["greedy"]),
        ({"wrong_texts": 9, "kl": 0.6}, ["token_ids", "effect"]),
    ],
)
def test_the_verdict_on_each_check(change, failed):
    row = replace(GOOD, **change)
    assert row.failed == failed and row.ok is (not failed)
    assert len(row.reasons) == len(failed)
    assert all(why.vi and why.en and why.vi != why.en for why in row.reasons)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"usual_difference": 9e-4, "max_difference": 9e-3}, []),
        ({"max_difference": 1.1e-3}, []),
        ({"usual_difference": 1.1e-3}, ["logits"]),
        ({"usual_difference": NAN}, ["logits"]),
        ({"max_difference": NAN}, ["logits"]),
        ({"max_difference": math.inf}, ["logits"]),
        ({"tolerance": 1.0, "usual_difference": 1.3}, ["logits"]),  # four tenths of their spread
        ({"usual_difference": 9e-4, "greedy_broken": 1}, ["greedy"]),
        ({"usual_difference": 9e-4, "wrong_texts": 1, "first_wrong": ("ạ", [1], [2])}, ["token_ids"]),
    ],
)
def test_what_is_reported_stops_nothing_and_what_is_broken_does(change, broken):
    row = replace(GOOD, **change)
    found = Verified((row, GOOD), (), effect=0.5, spread=3.0)
    assert row.broken == broken and not row.ok and not found.ok and found.problems
    if not broken:
        found.raise_if_broken()
        assert "more than it should be, less than a wrong weight makes. Top-1 (100.00%)" in found.problems[0]
        assert found.problems[0] in str(found) and list(found.table()["in parity"]) == ["no", "yes"]
        return
    with pytest.raises(LessonError) as raised:
        found.raise_if_broken()
    assert raised.value.en == "\n".join(f"GGUF f32: {row.reason(check).en}" for check in broken)


def test_rounding_of_ten_times_larger_logits_is_rounding(trained, prompts, tmp_path):
    """A 16-bit file of a model with large logits; numbers as bounds (0.02 for f16) once stopped it."""
    model, tokenizer = tuned()
    model.get_base_model().model.norm.weight.data *= 10
    export.merge(model, tokenizer, tmp_path / "merged", dtype=torch.float16)
    files = gguf.make(tmp_path / "merged", tmp_path / "gguf", name="scaled", kinds=("f16",), say=str)
    found = verify(
        model, tokenizer, prompts=prompts, texts=FEW, merged=tmp_path / "merged", gguf=files,
        template_options=OPTIONS,
    )  # fmt: skip
    assert found.spread > 20 and row_of(found, "f16").usual_difference > 5 * 0.02
    assert found.ok and min(row.top1 for row in found.rows) > 0.95
    found.raise_if_broken()
    model.get_base_model().model.norm.weight.data /= 10  # and now the files are another model's
    other = verify(model, tokenizer, prompts=prompts, texts=FEW, gguf=files, template_options=OPTIONS)
    with pytest.raises(LessonError, match="GGUF f16: .*weights or settings .RoPE, norm. are not those"):
        other.raise_if_broken()


def test_problems_name_the_artifact_in_the_language_of_the_reader():
    found = Verified((GOOD, replace(GOOD, name="q8_0", kl=0.6)), ("merged",), effect=0.5, spread=2.0)
    assert found.problems == [
        "GGUF q8_0: nearer to the base (KL 5.0e-01) than to the trained model (KL 6.0e-01): it seems that "
        "the base was exported without the adapter."
    ]
    assert found.not_compared == "Not there to compare: merged."
    assert found.not_compared in str(found) and found.problems[0] in found._repr_html_()
    with pytest.raises(LessonError, match="GGUF q8_0: nearer to the base"):
        found.raise_if_broken()
    language.use("vi")
    assert found.problems[0].startswith("GGUF q8_0: gần mô hình gốc")
    assert found.not_compared == "Không có để so sánh: merged."


def test_an_answer_that_parts_in_doubt_is_no_fault(llama_export, trained, prompts, check):
    """What counts is by how much the trained model preferred its own token where the two part."""
    model, tokenizer = trained
    said = ask_trained(model, tokenizer, prompts, texts=[], options=OPTIONS, max_new_tokens=8)
    answer = said.answers[0]
    assert len(answer) >= 3
    other = [*answer[:1], (answer[1] + 1) % 1792]  # parts at the second token
    heard = compare.Heard(
        ids=said.ids, rendered=said.rendered, stops=said.stops, eos=1801, answers=[other, *said.answers[1:]],
        logits=said.logits,
    )
    at = len(said.encoded[0]) + 1  # the second token is chosen by the row before it, that of the first
    with torch.no_grad():
        rows = model(torch.tensor([said.encoded[0] + answer])).logits[0]
    first, second = rows[at - 1].topk(2).values.tolist()
    lead = (first - second) / 2 / OUTLIER
    for tolerance, broken in ((lead * 1.01, 0), (lead * 0.99, 1)):
        row = compare.compared(Row("f32", 1.0, tolerance=tolerance), said, heard)
        assert (row.greedy_equal, row.greedy_broken) == (len(prompts) - 1, broken)


# ---------------------------------------------------------------- texts


def test_ten_thousand_different_texts_the_same_each_time():
    made = strings()
    assert len(made) == len(set(made)) == 10_000 and made == strings()
    assert all(made) and strings(240) == made[:240]


def test_texts_are_of_all_the_kinds_that_tell_tokenizers_apart():
    made = strings(2000)

    def share(of):
        return sum(map(of, made)) / len(made)

    def vietnamese(said):
        return any(letter in unicodedata.normalize("NFC", said).lower() for letter in "ạảấầệộờđư")

    assert share(vietnamese) > 0.3
    assert share(lambda said: vietnamese(said) and said == unicodedata.normalize("NFC", said)) > 0.1
    assert share(lambda said: vietnamese(said) and said == unicodedata.normalize("NFD", said)) > 0.1
    either = ("NFC", "NFD")
    mixed = [said for said in made if not any(unicodedata.is_normalized(form, said) for form in either)]
    assert len(mixed) > 100
    pieces = ["\u200d", "🏽", "\n\n", "   ", "\t", "\r\n", "def ", "'s", "THEY'RE", "\u3000", "1️⃣", "<|", "|>"]
    assert not [piece for piece in pieces if share(lambda said, piece=piece: piece in said) < 0.001]
    assert share(lambda said: any(0x1F1E6 <= ord(letter) <= 0x1F1FF for letter in said)) > 0.02  # flags
    assert share(lambda said: sum(map(str.isdigit, said)) > 5) > 0.05
    assert any(said != said.strip() for said in made)
    own = load_chats("customer_support_vi")["train"][0]["messages"][1]["content"]
    assert own in strings(12_000)


@pytest.mark.parametrize("twin", ["llama32", "phi3", "bloom"])
def test_no_text_holds_a_special_token(twin):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(twin_dir(twin))
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    assert special and not [said for said in strings(4000) if any(token in said for token in special)]


def test_conversations_show_what_templates_do_otherwise():
    made = conversations()
    assert {ask for _, ask in made} == {True, False}
    assert {messages[0]["role"] for messages, _ in made} == {"system", "user"}
    assert max(len(messages) for messages, _ in made) > 4
    assert all((messages[-1]["role"] == "assistant") <= (not ask) for messages, ask in made)
    texts = [message["content"] for messages, _ in made for message in messages]
    assert any(said != said.strip() for said in texts) and any("{{" in said for said in texts)


def test_kinds_are_those_that_gguf_makes():
    assert gguf_parity.KINDS == gguf.KINDS == ("f32", "f16", "q8_0", "q4_k_m")
