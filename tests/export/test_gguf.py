import importlib
import json
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import NAME
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lessonlib.export import _gguf as gguf
from lessonlib.export import _gguf_convert as gguf_convert
from lessonlib.export import _gguf_source as gguf_source
from lessonlib.runtime import _language as language
from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import twin_dir

STRINGS = [
    "Chào bạn, tôi muốn đổi mật khẩu và hủy đơn hàng số 12345.",
    "Cha\u0300o ba\u0323n, to\u0302i muo\u0302\u0301n",  # the same alphabet, decomposed
    "We'll see: it's 3.14159 and I'VE 2000000 of them!!!\r\n\r\n  \t end  ",
    "for i in range(10):\n    print(f'{i:>3}')\n",
    "🙂‍↕️👩🏽‍💻 café",
]


def small_folder(folder, **changes):
    """A Llama with rows of 96 and 160 weights, and the twin's tokenizer."""
    numbers = dict(
        vocab_size=2048, hidden_size=96, intermediate_size=160, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1792, eos_token_id=1801, pad_token_id=1796,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**numbers | changes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(twin_dir("llama32")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vendored():
    """llama.cpp's own `gguf` package."""
    folder = str(llama_cpp_tools.find().converter.with_name("gguf-py"))
    sys.path.insert(0, folder)
    package = importlib.import_module("gguf")
    sys.path.remove(folder)
    return package


@pytest.fixture(scope="module")
def read(vendored):
    """A function that reads the tensors of a GGUF file: name -> fp32 array of shape (rows, columns)."""

    def tensors(path):
        reader = vendored.GGUFReader(path)
        return {t.name: vendored.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}

    return tensors


@pytest.fixture(scope="module")
def merged(llama_export):
    return load_file(llama_export.merged / "model.safetensors")


def names_in_gguf(merged):
    """GGUF name -> the merged tensor in llama.cpp's order of rows: each head's two halves interleaved."""
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    config = AutoConfig.from_pretrained(twin_dir("llama32"))
    half = config.head_dim // 2
    found = {}
    for name, weight in merged.items():
        weight = weight.numpy()
        if "layers." in name:
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                starts = range(0, len(weight), 2 * half)  # of heads
                weight = weight[[s + j for s in starts for i in range(half) for j in (i, i + half)]]
            found[f"blk.{layer}.{parts[part]}.weight"] = weight
        else:
            short = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm"}[name]
            found[f"{short}.weight"] = weight
    return found


# ---------------------------------------------------------------- convert


def test_f32_holds_the_merged_weights_to_the_bit(llama_export, merged, read):
    stored, due = read(llama_export.gguf["f32"]), names_in_gguf(merged)
    assert set(stored) == {*due, "rope_freqs.weight"}
    for name, weight in due.items():
        assert np.array_equal(stored[name], weight), name


def test_it_is_the_tuned_model_and_not_the_base(llama_export, read):
    base = load_file(twin_dir("llama32") / "model.safetensors")
    base = names_in_gguf({name: weight.float() for name, weight in base.items()})
    stored = read(llama_export.gguf["f32"])
    changed = {name for name, weight in base.items() if not np.array_equal(stored[name], weight)}
    assert changed == {name for name in base if name.startswith("blk.") and "norm" not in name}


def test_f16_holds_the_weights_rounded_once(llama_export, merged, read):
    stored = read(llama_export.gguf["f16"])
    for name, weight in names_in_gguf(merged).items():
        due = weight if weight.ndim == 1 else weight.astype(np.float16).astype(np.float32)
        assert np.array_equal(stored[name], due), name


def test_the_rope_factors_are_those_of_transformers(llama_export, read):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.from_pretrained(llama_export.merged)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500_000.0 ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    np.testing.assert_allclose(read(llama_export.gguf["f32"])["rope_freqs.weight"], plain / scaled, rtol=1e-5)


def test_llama_cpp_cuts_the_same_tokens(llama_export):
    from llama_cpp import Llama

    tokenizer = AutoTokenizer.from_pretrained(llama_export.merged)
    loaded = Llama(str(llama_export.gguf["f16"]), vocab_only=True, verbose=False)
    for string in STRINGS:
        theirs = loaded.tokenize(string.encode(), add_bos=True, special=True)
        assert theirs == tokenizer(string)["input_ids"], string


def convert(folder, target):
    """One file in f16, as `make` converts it."""
    target.parent.mkdir(exist_ok=True)
    gguf._convert(gguf_source.checked(folder), {"f16": target}, target.stem)


def test_a_tokenizer_that_cuts_otherwise_is_refused(tmp_path):
    folder = small_folder(tmp_path / "model")
    file = folder / "tokenizer.json"
    changed = json.loads(file.read_text())
    changed["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,2}|\p{L}+"
    file.write_text(json.dumps(changed))
    with pytest.raises(LessonError, match=r"does not cut text as Llama 3's does \(Split.pattern: "):
        convert(folder, tmp_path / "out" / "a.gguf")
    assert not any((tmp_path / "out").iterdir())


def test_a_weight_too_large_for_f16_is_no_infinity(tmp_path):
    folder = small_folder(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][3, 4] = 70_000.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "a.gguf").write_text("an older one")
    with pytest.raises(LessonError, match=r"(?s)Converting .* failed \(exit status 1.*overflow encountered"):
        convert(folder, tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_text() == "an older one"
    assert {path.name for path in tmp_path.iterdir()} == {"model", "a.gguf"}


# ---------------------------------------------------------------- llama3_differences


def llama3():
    return json.loads((twin_dir("llama32") / "tokenizer.json").read_text())


def test_llama_3s_own_settings_differ_in_nothing():
    assert gguf_convert.llama3_differences(llama3()) == []


CHANGES = {
    "normalizer": lambda t: t.update(normalizer={"type": "NFC"}),
    "pre_tokenizer": lambda t: t["pre_tokenizer"]["pretokenizers"].append({"type": "Digits"}),
    "Split.pattern": lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\s+"),
    "Split.behavior": lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"),
    "Split.invert": lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(invert=True),
    "ByteLevel.use_regex": lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True),
    "ByteLevel.add_prefix_space": lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(
        add_prefix_space=True
    ),
    "model.type": lambda t: t["model"].update(type="Unigram"),
    "model.ignore_merges": lambda t: t["model"].update(ignore_merges=False),
    "model.byte_fallback": lambda t: t["model"].update(byte_fallback=True),
    "model.dropout": lambda t: t["model"].update(dropout=0.1),
    "model.unk_token": lambda t: t["model"].update(unk_token="<unk>"),
    "model.continuing_subword_prefix": lambda t: t["model"].update(continuing_subword_prefix="##"),
    "model.end_of_word_suffix": lambda t: t["model"].update(end_of_word_suffix="</w>"),
    "added_tokens with lstrip, rstrip or single_word": lambda t: t["added_tokens"][5].update(rstrip=True),
}


@pytest.mark.parametrize("part", CHANGES)
def test_each_other_setting_is_named(part):
    tokenizer = llama3()
    CHANGES[part](tokenizer)
    [difference] = gguf_convert.llama3_differences(tokenizer)
    assert difference.startswith(f"{part}: ")


@pytest.mark.parametrize("pre", [None, {"type": "ByteLevel", "use_regex": True}])
def test_one_pre_tokenizer_or_none_is_not_llama_3s(pre):
    different = gguf_convert.llama3_differences(llama3() | {"pre_tokenizer": pre})
    assert any(difference.startswith("pre_tokenizer: ") for difference in different)


# ---------------------------------------------------------------- what may be converted


def spoil_adapter(folder):
    (folder / "adapter_config.json").write_text("{}")


def spoil_config(folder):
    (folder / "config.json").unlink()


def spoil_quantised(folder):
    (folder / "config.json").write_text('{"quantization_config": {"load_in_4bit": true}}')


def spoil_code(folder):
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["code.Own", null]}}')


def spoil_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def spoil_file(folder):
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(200)


REFUSED = {
    spoil_adapter: "is an adapter and no whole model. Merge first",
    spoil_config: "has no config.json, so it is no model",
    spoil_quantised: "is quantised. GGUF is made of 16-bit weights",
    spoil_code: "brings Python code of its own",
    spoil_weights: "has no model\\*.safetensors",
    spoil_file: "model.safetensors is damaged or half-written",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model folder of two tensors, where only lessonlib's own checks can fail: nothing is started."""
    monkeypatch.setattr(gguf, "_run", lambda *arguments: pytest.fail(f"started {arguments}"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    tensors = {"matrix": torch.zeros(1000, 512, dtype=torch.bfloat16), "norm": torch.zeros(512)}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("spoil", REFUSED)
def test_what_is_no_whole_merged_model_is_refused(folder, tmp_path, spoil):
    spoil(folder)
    with pytest.raises(LessonError, match=REFUSED[spoil]):
        gguf.make(folder, tmp_path / "out", name="a", kinds=["f16"])


def test_a_saved_adapter_is_refused(llama_export, tmp_path):
    with pytest.raises(LessonError, match="Merge first"):
        convert(llama_export.adapter, tmp_path / "a.gguf")
    language.use("vi")
    with pytest.raises(LessonError, match="Hãy merge trước"):
        convert(llama_export.adapter, tmp_path / "a.gguf")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LessonError, match="There is no folder .*nowhere"):
        convert(tmp_path / "nowhere", tmp_path / "a.gguf")


def test_wrong_arguments_are_named(folder, tmp_path):
    with pytest.raises(LessonError, match="'a b' cannot be a file name everywhere"):
        gguf.make(folder, tmp_path / "out", name="a b")
    for kinds in ("f16", ["f16", "q5"], []):
        with pytest.raises(LessonError, match="There is no kinds '[fq5]*'. Choose from: f32, f16, q8_0, q4"):
            gguf.make(folder, tmp_path / "out", name="a", kinds=kinds)
    with pytest.raises(LessonError, match="'../a' cannot be a file name"):
        gguf.make(folder, tmp_path / "out", name="../a")


def test_the_size_of_what_will_be_written(llama_export):
    shapes = gguf_source.shapes(llama_export.merged)
    for kind, path in llama_export.gguf.items():
        written, estimate = path.stat().st_size, gguf_source.size(shapes, kind)
        if kind == "q4_k_m":  # an upper bound: as if every matrix had 6.56 bits
            assert 0.7 < written / estimate < 1
        else:  # to the byte, but for vocabulary, merges and template (about 75 kB)
            assert 0 < written - estimate < 150_000, kind


Disk = namedtuple("Disk", "total used free")
Memory = namedtuple("Memory", "available")


def test_a_full_disk_is_noticed_before_anything_is_written(folder, tmp_path, monkeypatch):
    weights = 1000 * 512 * 2 + 512 * 4
    both = weights * 1.53 + 2 * gguf.BESIDE_WEIGHTS  # f16 and q8_0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, both - 10_000))
    with pytest.raises(LessonError, match="The disk is too full: 0.14 GB are needed"):
        gguf.make(folder, tmp_path / "out", name="a", kinds=["f16", "q8_0"])
    assert {path.name for path in tmp_path.rglob("*.gguf*")} == set()


def test_too_little_memory_is_noticed_before_anything_is_started(folder, tmp_path, monkeypatch):
    needed = gguf._PROCESS + 6 * 1000 * 512
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(needed - 1))
    with pytest.raises(LessonError, match="The memory is too full: about 0.7 GB are needed, 0.7 GB are free"):
        convert(folder, tmp_path / "a.gguf")
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(needed))
    with pytest.raises(pytest.fail.Exception, match="started"):
        convert(folder, tmp_path / "a.gguf")


def test_quantising_asks_for_memory_too(llama_export, tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(10**8))
    with pytest.raises(LessonError, match="The memory is too full: about 0.4 GB are needed"):
        gguf._quantise(llama_export.gguf["f16"], tmp_path / "a.gguf", "q8_0", print)


# ---------------------------------------------------------------- the processes


def test_the_process_is_offline_and_knows_only_llama_cpps_gguf(llama_export, tmp_path, monkeypatch):
    (tmp_path / "gguf.py").write_text("raise SystemExit('the wrong gguf')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_LOCAL_GGUF", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    run, seen = subprocess.run, {}

    def watched(command, **options):
        seen.update(options["env"], command=command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    assert gguf.describe(llama_export.gguf["f16"])["kind"] == "f16"
    assert seen["command"][:2] == [sys.executable, "-P"]
    assert seen["HF_HUB_OFFLINE"] == "1" and seen["CUDA_VISIBLE_DEVICES"] == ""
    assert "NO_LOCAL_GGUF" not in seen


def test_a_failed_process_leaves_the_old_file_and_nothing_else(folder, tmp_path, monkeypatch):
    def fails(*arguments):
        Path(arguments[-1]).write_text("half")
        said = "\n".join(f"line {number}" for number in range(30))
        return subprocess.CompletedProcess(arguments, -9, "", f"{said}\n\n")

    monkeypatch.setattr(gguf, "_run", fails)
    (tmp_path / "a.gguf").write_text("old")
    with pytest.raises(LessonError, match=r"(?s)failed \(exit status -9; .*said:\nline 18\n.*line 29$"):
        convert(folder, tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"model", "a.gguf"}


# ---------------------------------------------------------------- quantise


@pytest.mark.parametrize(("kind", "error"), [("q8_0", 0.01), ("q4_k_m", 0.1)])
def test_quantised_weights_are_those_weights_rounded(llama_export, merged, read, kind, error):
    stored = read(llama_export.gguf[kind])
    for name, weight in names_in_gguf(merged).items():
        if weight.ndim == 1:
            assert np.array_equal(stored[name], weight), name
        else:
            apart = np.linalg.norm(stored[name] - weight) / np.linalg.norm(weight)
            assert error / 30 < apart < error, name


def test_rows_that_do_not_come_out_even_are_stored_otherwise_and_said(vendored, tmp_path):
    writer = vendored.GGUFWriter(tmp_path / "a-f16.gguf", "llama")
    writer.add_file_type(vendored.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(64)
    writer.add_embedding_length(96)
    writer.add_feed_forward_length(512)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(64)
    shapes = {
        "token_embd": (64, 96), "blk.0.attn_q": (96, 96), "blk.0.attn_v": (96, 96), "blk.0.ffn_up": (512, 96),
        "blk.0.ffn_down": (96, 512),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.random.default_rng(0).normal(size=shape).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    said = []
    gguf._quantise(tmp_path / "a-f16.gguf", tmp_path / "a.gguf", "q4_k_m", said.append)
    about = gguf.describe(tmp_path / "a.gguf")
    assert about["kind"] == "q4_k_m"
    # q5_0 instead of q4_K, q8_0 instead of q6_K. Rows of 512 are two whole blocks.
    assert about["fallbacks"] == {
        "token_embd.weight": "Q8_0", "blk.0.attn_q.weight": "Q5_0", "blk.0.attn_v.weight": "Q8_0",
        "blk.0.ffn_up.weight": "Q5_0",
    }  # fmt: skip
    assert about["tensor_types"] == {"Q8_0": 2, "Q5_0": 2, "Q6_K": 1}
    assert said == [
        "a.gguf: the rows of 4 matrices do not come out even in the blocks of q4_k_m, so they have another "
        "type with more bits: see export.describe_gguf(...)['fallbacks']."
    ]
    said.clear()
    gguf._quantise(tmp_path / "a-f16.gguf", tmp_path / "b.gguf", "q8_0", said.append)
    assert said == [] and gguf.describe(tmp_path / "b.gguf")["fallbacks"] == {}


def test_a_failed_quantiser_says_why(llama_export, tmp_path, monkeypatch):
    run = gguf._run
    monkeypatch.setattr(gguf, "_run", lambda step, *rest: run(step, *rest[:1], str(tmp_path), *rest[2:])
                        if step == "quantise" else run(step, *rest))  # fmt: skip
    with pytest.raises(LessonError, match=r"(?s)Quantising .* failed \(exit status 1;.*failed to quantize"):
        gguf._quantise(llama_export.gguf["f16"], tmp_path / "a.gguf", "q8_0", print)
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------- describe


def test_a_file_says_what_the_model_is(llama_export, merged):
    config = AutoConfig.from_pretrained(llama_export.merged)
    tokenizer = AutoTokenizer.from_pretrained(llama_export.merged)
    about = gguf.describe(llama_export.gguf["q4_k_m"])
    assert about["chat_template"] == tokenizer.chat_template
    del about["chat_template"]
    types = about.pop("tensor_types")
    layers = config.num_hidden_layers
    # Two norms a layer, the last one, the rope factors; half of the value and down matrices, the embedding.
    assert types == {"F32": 2 * layers + 2, "Q4_K": 6 * layers, "Q6_K": layers + 1}
    assert about == {
        "name": NAME,
        "architecture": "llama",
        "kind": "q4_k_m",
        "parameters": sum(weight.numel() for weight in merged.values()),
        "file_size": llama_export.gguf["q4_k_m"].stat().st_size,
        "fallbacks": {},
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "rope_base": config.rope_parameters["rope_theta"],
        "rope_freqs": True,
        "norm_eps": config.rms_norm_eps,
        "tied_embeddings": True,
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "llama-bpe",
        "vocabulary": config.vocab_size,
        "bos_id": tokenizer.bos_token_id,
        "eos_id": tokenizer.eos_token_id,
        "eot_id": None,
        "pad_id": tokenizer.pad_token_id,
        "add_bos": True,
    }


def test_what_is_no_whole_file_is_refused(llama_export, tmp_path):
    with pytest.raises(LessonError, match="There is no file .*nothing.gguf"):
        gguf.describe(tmp_path / "nothing.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(llama_export.gguf["q8_0"].read_bytes()[:-1000])
    with pytest.raises(LessonError, match="cut.gguf is no whole GGUF file"):
        gguf.describe(cut)


# ---------------------------------------------------------------- make


@pytest.fixture
def steps(folder, monkeypatch):
    """Each step that is started, while files are written that say what they were made of."""
    monkeypatch.setattr(llama_cpp_tools, "check_packages", lambda: None)
    tools = llama_cpp_tools.Tools("0", Path("folder", "converter"))
    monkeypatch.setattr(llama_cpp_tools, "find", lambda: tools)
    started = []

    def run(step, *rest):
        said = ""
        if step == "describe":
            size = Path(rest[1]).stat().st_size
            said = json.dumps({"kind": "f16", "file_size": size, "parameters": 1000})
        else:
            source, rest = (rest[1], rest[3:]) if step == "convert" else (rest[0], (rest[2], rest[1]))
            made_of = gguf_source.identity(Path(source)) if step == "convert" else Path(source).read_text()
            for kind, out in zip(rest[::2], rest[1::2], strict=True):
                started.append(kind)
                Path(out).write_text(f"{made_of} {kind}")
        return subprocess.CompletedProcess([], 0, said, "")

    monkeypatch.setattr(gguf, "_run", run)
    return started


def test_a_second_run_does_nothing(folder, steps, tmp_path):
    said = []
    made = gguf.make(folder, tmp_path / "out", name="a", say=said.append)
    assert steps == ["f16", "q8_0", "q4_k_m"]
    assert made == {kind: tmp_path / "out" / f"a-{kind}.gguf" for kind in ("f16", "q8_0", "q4_k_m")}
    assert said == [f"a-{kind}.gguf: being made..." for kind in made]
    said.clear()
    assert gguf.make(folder, tmp_path / "out", name="a", say=said.append) == made
    assert len(steps) == 3
    assert said == [f"a-{kind}.gguf: there already." for kind in made]


def test_only_what_is_missing_is_made(folder, steps, tmp_path):
    gguf.make(folder, tmp_path, name="a", kinds=["q8_0", "f16"])
    gguf.make(folder, tmp_path, name="a", kinds=["f32", "q4_k_m", "q8_0"])
    assert steps == ["f16", "q8_0", "f32", "q4_k_m"]
    (tmp_path / "a-q8_0.gguf").unlink()
    (tmp_path / "a-f32.gguf").write_text("changed by hand")
    gguf.make(folder, tmp_path, name="a", kinds=["f32", "f16", "q8_0", "q4_k_m"])
    assert steps[4:] == ["f32", "q8_0"]
    assert (tmp_path / "a-f32.gguf").read_text().endswith(" f32")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "chat.jinja"])
def test_another_model_is_converted_again(folder, steps, tmp_path, file):
    gguf.make(folder, tmp_path / "out", name="a", kinds=["f16", "q8_0", "q4_k_m"])
    if file == "model.safetensors":
        save_file({"matrix": torch.ones(8, 8)}, folder / file)
    else:
        (folder / file).write_text('{"other": 1}')
    del steps[:]
    gguf.make(folder, tmp_path / "out", name="a", kinds=["f16", "q8_0"])
    assert steps == ["f16", "q8_0"]
    now = gguf_source.identity(folder)
    assert (tmp_path / "out" / "a-q8_0.gguf").read_text() == f"{now} f16 q8_0"
    # The file of the earlier model that was not asked for would be taken for this one's.
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a-f16.gguf", "a-q8_0.gguf", gguf._RECORD}


def test_a_model_card_or_a_new_marker_changes_nothing(folder, steps, tmp_path):
    gguf.make(folder, tmp_path / "out", name="a", kinds=["f16"])
    (folder / "README.md").write_text("# what it is")
    (folder / "lessonlib_export.json").write_text('{"kind": "merged"}')
    gguf.make(folder, tmp_path / "out", name="a", kinds=["f16"])
    assert steps == ["f16"]


def test_another_llama_cpp_makes_the_files_again(folder, steps, tmp_path, monkeypatch):
    gguf.make(folder, tmp_path / "out", name="a", kinds=["f16"])
    monkeypatch.setattr(llama_cpp_tools, "VERSION", "0.4.0")
    gguf.make(folder, tmp_path / "out", name="a", kinds=["f16"])
    assert steps == ["f16", "f16"]


def test_an_f16_that_nobody_asked_for_is_made_and_removed(folder, steps, tmp_path):
    made = gguf.make(folder, tmp_path / "out", name="a", kinds=["q4_k_m"])
    assert steps == ["f16", "q4_k_m"] and list(made) == ["q4_k_m"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a-q4_k_m.gguf", gguf._RECORD}
    gguf.make(folder, tmp_path / "out", name="a", kinds=["q4_k_m"])
    assert len(steps) == 2


@pytest.mark.parametrize("kinds", [["f16"], ["q8_0"]])
def test_a_file_of_somebody_elses_is_left_alone(folder, steps, tmp_path, kinds):
    (tmp_path / "a-f16.gguf").write_text("somebody's")
    with pytest.raises(LessonError, match="a-f16.gguf exists already and was not made by export.make_gguf"):
        gguf.make(folder, tmp_path, name="a", kinds=kinds)
    assert steps == [] and (tmp_path / "a-f16.gguf").read_text() == "somebody's"


def test_somebody_elses_f16_stays_where_nothing_has_to_be_made(folder, steps, tmp_path):
    gguf.make(folder, tmp_path / "out", name="a", kinds=["q8_0"])
    (tmp_path / "out" / "a-f16.gguf").write_text("somebody's")
    gguf.make(folder, tmp_path / "out", name="a", kinds=["q8_0"])
    assert (tmp_path / "out" / "a-f16.gguf").read_text() == "somebody's"


KILLED = """
import os, signal, sys
from pathlib import Path
from lessonlib.export import _gguf as gguf

run = gguf._run

def half(step, *rest):
    if step == "quantise":
        Path(rest[1]).write_bytes(Path(sys.argv[3]).read_bytes()[:1_000_000])
        os.kill(os.getpid(), signal.SIGKILL)
    return run(step, *rest)

gguf._run = half
gguf.make(sys.argv[1], sys.argv[2], name=sys.argv[4], kinds=["f16", "q8_0"])
"""


def test_a_killed_run_leaves_no_half_file_behind_and_the_next_goes_on(llama_export, tmp_path):
    out = tmp_path / "gguf"
    shutil.copytree(llama_export.gguf["f16"].parent, out)
    q8_0, f16 = (out / llama_export.gguf[kind].name for kind in ("q8_0", "f16"))
    q8_0.unlink()
    before = f16.stat()
    arguments = [llama_export.merged, out, llama_export.gguf["q8_0"], NAME]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not q8_0.exists() and len(list(out.glob(".*.partial"))) == 1
    gguf.make(llama_export.merged, out, name=NAME, kinds=["f16", "q8_0"], say=lambda line: None)
    assert q8_0.read_bytes() == llama_export.gguf["q8_0"].read_bytes()
    assert (f16.stat().st_ino, f16.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not list(out.glob(".*"))


def test_a_run_killed_between_file_and_record_makes_the_file_again(folder, steps, tmp_path, monkeypatch):
    convert = gguf._convert
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gguf, "_convert", lambda *what: convert(*what) or signal.raise_signal(signal.SIGINT))
        gguf.make(folder, tmp_path / "out", name="a", kinds=["f16"])
    assert (tmp_path / "out" / "a-f16.gguf").exists()
    gguf.make(folder, tmp_path / "out", name="a", kinds=["f16"])
    assert steps == ["f16", "f16"]


def test_what_a_killed_run_left_goes_even_if_it_is_not_asked_for_again(folder, steps, tmp_path, monkeypatch):
    out = tmp_path / "out"
    gguf.make(folder, out, name="a", kinds=["f16"])
    record = json.loads((out / gguf._RECORD).read_text())
    (out / gguf._RECORD).write_text(json.dumps(record | {"files": {**record["files"], "a-q8_0.gguf": None}}))
    (out / ".a-q8_0.gguf.123.partial").write_text("half")
    gguf.make(folder, out, name="a", kinds=["f16"])
    assert {path.name for path in out.iterdir()} == {"a-f16.gguf", gguf._RECORD}
