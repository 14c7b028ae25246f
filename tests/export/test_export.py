import json
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from exported import tuned as tuned_twin
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lessonlib.evaluation import _parity as parity
from lessonlib.evaluation._answers import continuations
from lessonlib.export import _saving as export
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import twin_dir

PROMPTS = ["Human: Học máy là gì? Assistant:", "Human: What is a token? Assistant:", "Mạng"]
Disk = namedtuple("Disk", "total used free")


BOTH = pytest.mark.parametrize("base", ["tiny_bloom", "tiny_llama"], indirect=True)


@pytest.fixture
def base(request, tmp_path, tokenizer):
    """A base on disk, as a lesson's is; layers outweigh the tied embedding, so that answers vary."""
    model = request.getfixturevalue(getattr(request, "param", "tiny_bloom"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight *= 15
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options)


def adapted(base, *, effect=0.02, alpha=8, **options):
    model = load(base, **options)
    return with_adapter(model, effect=effect, alpha=alpha)


def scaled(by):
    """The tuned Llama twin with logits so many times as large, and its tokenizer."""
    model, tokenizer = tuned_twin()
    model.get_base_model().model.norm.weight.data *= by
    return model, tokenizer


TARGETS = {"bloom": ["query_key_value"], "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}


def with_adapter(model, *, effect, alpha=8, **options):
    targets = TARGETS.get(model.config.model_type, ["q_proj", "v_proj", "down_proj"])
    settings = LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM", **options)
    torch.manual_seed(1)
    tuned = get_peft_model(model, settings)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=effect)
    return tuned


@pytest.fixture
def tuned(base):
    return adapted(base, effect=0.5)


def names(folder):
    return {file.name for file in folder.iterdir()}


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# ---------------------------------------------------------------- save_adapter


@BOTH
def test_a_saved_adapter_gives_the_same_logits_when_loaded(base, tuned, tokenizer, tmp_path):
    folder = export.save_adapter(tuned, tokenizer, tmp_path / "out" / "adapter")
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names(folder)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names(folder))
    again = PeftModel.from_pretrained(load(base), folder)
    saved = AutoTokenizer.from_pretrained(folder)
    assert parity.parity(tuned, again, tokenizer, PROMPTS, second_tokenizer=saved).ok
    assert names(tmp_path / "out") == {"adapter"}


def test_the_revision_of_the_base_is_recorded(base, tuned, tokenizer, tmp_path):
    tuned.get_base_model().config._commit_hash = "0123abc"
    folder = export.save_adapter(tuned, tokenizer, tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["revision"], settings["base_model_name_or_path"]) == ("0123abc", str(base))
    assert tuned.active_peft_config.revision is None  # the learner's object is left alone


def test_an_adapter_without_effect_is_refused(base, tokenizer, tmp_path):
    untrained = adapted(base, effect=0)
    with pytest.raises(LessonError, match="adapter has no effect: every B matrix is zero"):
        export.save_adapter(untrained, tokenizer, tmp_path / "adapter")
    with pytest.raises(LessonError, match="adapter has no effect"):
        export.merge(untrained, tokenizer, tmp_path / "adapter")
    language.use("vi")
    with pytest.raises(LessonError, match="Adapter không có tác dụng"):
        export.save_adapter(untrained, tokenizer, tmp_path / "adapter")
    assert names(tmp_path) == {"base"}


def test_one_b_matrix_that_is_not_zero_is_an_effect(base, tokenizer, tmp_path):
    model = adapted(base, effect=0)
    weight = [weight for name, weight in model.named_parameters() if "lora_B" in name][-1]
    with torch.no_grad():
        weight[0, 0] = 1e-8
    assert export.save_adapter(model, tokenizer, tmp_path / "adapter").is_dir()


@pytest.mark.parametrize("save", [export.save_adapter, export.merge])
def test_a_model_without_adapter_is_refused(base, tokenizer, tmp_path, save):
    with pytest.raises(LessonError, match="ForCausalLM is no PeftModel"):
        save(load(base), tokenizer, tmp_path / "out")


@pytest.mark.parametrize("save", [export.save_adapter, export.merge])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_adapter_is_refused_by_the_name_of_its_weight(tuned, tokenizer, tmp_path, save, bad):
    name, weight = next((n, w) for n, w in tuned.named_parameters() if "lora_A" in n)
    with torch.no_grad():
        weight[0, 0] = bad
    with pytest.raises(LessonError, match=f"NaN or infinity, first in {name}"):
        save(tuned, tokenizer, tmp_path / "out")


# ---------------------------------------------------------------- merge


@BOTH
def test_the_merged_model_is_the_adapter_on_its_base(base, tuned, tokenizer, tmp_path):
    before = continuations(tuned, tokenizer, PROMPTS)
    merged = export.merge(tuned, tokenizer, tmp_path / "merged")
    again = load(tmp_path / "merged")
    saved = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for model in (merged, again):
        report = parity.parity(tuned, model, tokenizer, PROMPTS, second_tokenizer=saved)
        assert report.ok and report.top1 == 1 and report.greedy_equal == len(PROMPTS)
    assert not isinstance(merged, PeftModel) and not any("lora" in name for name, _ in merged.named_modules())
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names(
        tmp_path / "merged"
    )
    assert before != continuations(load(base), tokenizer, PROMPTS)  # else all this proves nothing


@BOTH
def test_merging_leaves_the_callers_model_ready_to_train_on(tuned, tokenizer, tmp_path):
    tuned.gradient_checkpointing_enable()
    tuned.enable_input_require_grads()
    tuned.train()
    tuned.config.use_cache = False
    state = {name: weight.clone() for name, weight in tuned.state_dict().items()}
    merged = export.merge(tuned, tokenizer, tmp_path / "merged")
    assert all(torch.equal(state[name], weight) for name, weight in tuned.state_dict().items())
    assert tuned.training and tuned.is_gradient_checkpointing and tuned.config.use_cache is False
    ids = torch.tensor([[5, 6, 7, 8]])
    tuned(input_ids=ids, labels=ids).loss.backward()
    grown = [weight.grad.abs().sum() for name, weight in tuned.named_parameters() if "lora_B" in name]
    assert grown and all(grad > 0 for grad in grown)

    assert not merged.training and not merged.is_gradient_checkpointing
    assert merged.config.use_cache is True
    assert not merged(input_ids=ids).logits.requires_grad  # no hook of the training is left on it


def test_the_saved_generation_settings_have_the_real_ids_and_are_greedy(tuned, tokenizer, tmp_path):
    settings = tuned.get_base_model().generation_config
    settings.update(do_sample=False, temperature=0.6, eos_token_id=[2, 7], pad_token_id=50256)
    export.merge(tuned, tokenizer, tmp_path / "merged")
    saved = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (saved["eos_token_id"], saved["pad_token_id"], saved["bos_token_id"]) == ([2, 7], 3, 1)
    assert "temperature" not in saved and not saved.get("do_sample")
    config = (tmp_path / "merged" / "config.json").read_text()
    assert json.loads(config)["use_cache"] is True and str(tmp_path) not in config
    assert settings.temperature == 0.6


def test_dtype_chooses_what_is_saved_and_a_wider_one_loses_nothing(base, tokenizer, tmp_path):
    tuned = adapted(base, effect=0.5)
    export.merge(tuned, tokenizer, tmp_path / "half", dtype=torch.float16)
    half = load(tmp_path / "half", dtype="auto")
    assert {weight.dtype for weight in half.parameters()} == {torch.float16}

    narrow = adapted(base, effect=0.5, dtype=torch.bfloat16)
    wide = export.merge(narrow, tokenizer, tmp_path / "wide", dtype=torch.float32)
    assert {weight.dtype for weight in wide.parameters()} == {torch.float32}
    reference = adapted(base, effect=0.5)  # the same adapter on the same weights, rounded to bfloat16 first
    reference.load_state_dict(narrow.float().state_dict())
    assert parity.parity(reference, wide, tokenizer, PROMPTS).ok


def test_an_8_bit_base_is_refused_with_the_cure(base, tokenizer, tmp_path):
    from transformers import BitsAndBytesConfig

    tuned = adapted(base, effect=0.5, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    with pytest.raises(LessonError, match="otherwise than to bitsandbytes' 4 bits.*the base unquantised"):
        export.merge(tuned, tokenizer, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_sum_that_overflows_is_refused(base, tokenizer, tmp_path):
    tuned = adapted(base, effect=1e30)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_A" in name:
                weight *= 1e30
    with pytest.raises(LessonError, match="Merging gave NaN or infinity"):
        export.merge(tuned, tokenizer, tmp_path / "merged")
    assert names(tmp_path) == {"base"}


# ---------------------------------------------------------------- a 4-bit base

FOUR_BIT = pytest.mark.parametrize("base", ["tiny_phi3", "tiny_llama"], indirect=True)


@pytest.fixture
def tiny_phi3(tokenizer):
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )
    return Phi3ForCausalLM(config).eval()


def four_bit(base, *, effect=0.05, dtype=torch.float32, prepare=True, **options):
    """As QLoRA has it: nf4 with double quantisation, prepared for training, an adapter with an effect."""
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    from lessonlib.models import _loading as models

    models._keep_cpu_weights_in_place()
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = load(base, quantization_config=settings, device_map={"": "cpu"}, dtype=dtype)
    if prepare:
        model = prepare_model_for_kbit_training(model)
    return with_adapter(model, effect=effect, **options)


@torch.no_grad()
def logits(model, tokenizer):
    model.eval()
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    return torch.cat([model(torch.tensor([row]), use_cache=False).logits[0].float() for row in ids])


def errors(tuned, model, tokenizer):
    """Mean |logit difference| to the tuned model, as a share of what the adapter changes."""
    wanted = logits(tuned, tokenizer)
    with tuned.disable_adapter():
        effect = (wanted - logits(tuned, tokenizer)).abs().mean()
    return ((wanted - logits(model, tokenizer)).abs().mean() / effect).item()


@FOUR_BIT
def test_merging_into_4_bits_loses_nothing_where_the_usual_way_loses_much(base, tokenizer, tmp_path):
    from copy import deepcopy

    tuned = four_bit(base)
    usual = deepcopy(tuned).merge_and_unload()
    merged = export.merge(tuned, tokenizer, tmp_path / "merged")
    for model in (merged, load(tmp_path / "merged")):
        assert errors(tuned, model, tokenizer) < 0.002
    assert errors(tuned, usual, tokenizer) > 0.05  # some 25 times worse, at the least
    report = parity.parity(tuned, load(tmp_path / "merged"), tokenizer, PROMPTS)
    assert report.ok


@FOUR_BIT
def test_a_4_bit_model_is_saved_as_an_ordinary_one(base, tokenizer, tmp_path):
    tuned = four_bit(base)
    merged = export.merge(tuned, tokenizer, tmp_path / "merged")
    assert names(tmp_path / "merged") >= {"model.safetensors", "config.json", "generation_config.json"}
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names(tmp_path / "merged"))
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert not any("quant" in key for key in config) and config["use_cache"] is True
    settings = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (settings["eos_token_id"], settings["pad_token_id"]) == (2, 3)
    assert json.loads((tmp_path / "merged" / "lessonlib_export.json").read_text())["kind"] == "merged"
    for model in (merged, load(tmp_path / "merged")):
        assert not getattr(model, "is_loaded_in_4bit", False) and not getattr(model, "is_quantized", False)
        assert getattr(model.config, "quantization_config", None) is None
        assert type(model) is type(tuned.get_base_model()) and not isinstance(model, PeftModel)
        assert {type(weight) for weight in model.parameters()} == {torch.nn.Parameter}
        assert not any("lora" in name or "bitsandbytes" in type(module).__module__
                       for name, module in model.named_modules())
    again = with_adapter(load(tmp_path / "merged"), effect=0.5)  # it can be fine-tuned and merged again
    assert errors(again, export.merge(again, tokenizer, tmp_path / "twice"), tokenizer) < 1e-3


@FOUR_BIT
def test_merging_leaves_a_4_bit_model_ready_to_train_on(base, tokenizer, tmp_path, monkeypatch):
    import bitsandbytes

    tuned = four_bit(base)
    tuned.train()
    tuned.config.use_cache = False
    state = {name: weight.clone() for name, weight in tuned.state_dict().items()}
    before, kinds = logits(tuned, tokenizer), [type(module) for module in tuned.modules()]
    tuned.train()

    def copied(*_):
        raise AssertionError("4-bit weights are shared, for a T4 has no room for them twice")

    monkeypatch.setattr(bitsandbytes.nn.Params4bit, "__deepcopy__", copied)
    merged = export.merge(tuned, tokenizer, tmp_path / "merged")
    assert state.keys() == tuned.state_dict().keys()
    assert all(torch.equal(state[name], weight) for name, weight in tuned.state_dict().items())
    assert kinds == [type(module) for module in tuned.modules()]
    assert tuned.training and tuned.is_gradient_checkpointing and tuned.config.use_cache is False
    inner = tuned.get_base_model()
    assert inner.is_loaded_in_4bit and inner.config.quantization_config.load_in_4bit
    ids = torch.tensor([[5, 6, 7, 8]])
    tuned(input_ids=ids, labels=ids).loss.backward()
    assert all(weight.grad.abs().sum() > 0 for name, weight in tuned.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        for weight in merged.parameters():
            weight.zero_()
    assert torch.equal(logits(tuned, tokenizer), before)  # nothing of the copy is the original's
    assert not merged(input_ids=ids).logits.requires_grad and not merged.is_gradient_checkpointing


@FOUR_BIT
@pytest.mark.parametrize("prepare", [True, False])
def test_a_4_bit_base_is_widened_to_the_dtype_it_was_loaded_with_or_the_one_asked_for(
    base, tokenizer, tmp_path, prepare
):
    """Preparing a model for training makes float32 of all that is not quantised; a T4 has no room for it."""
    tuned = four_bit(base, dtype=torch.float16, prepare=prepare)
    for wanted, asked in ((torch.float16, {}), (torch.float32, {"dtype": torch.float32})):
        merged = export.merge(tuned, tokenizer, tmp_path / str(wanted), **asked)
        saved = load(tmp_path / str(wanted), dtype="auto")
        assert {weight.dtype for weight in [*merged.parameters(), *saved.parameters()]} == {wanted}
        assert errors(tuned, saved.float(), tokenizer) < 0.05


@pytest.mark.parametrize("base", ["tiny_phi3"], indirect=True)
@pytest.mark.parametrize("options", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_other_kinds_of_lora_are_merged_into_4_bits_too(base, tokenizer, tmp_path, options):
    kind = dict(options)
    tuned = four_bit(base, **({} if "init_lora_weights" in kind else kind))
    for name, value in options.items():
        setattr(tuned.active_peft_config, name, value)  # PiSSA itself refuses to start from a 4-bit base
    merged = export.merge(tuned, tokenizer, tmp_path / "merged")
    assert errors(tuned, merged, tokenizer) < 0.002
    assert tuned.active_peft_config.init_lora_weights == options.get("init_lora_weights", True)


@pytest.mark.parametrize("base", ["tiny_phi3"], indirect=True)
def test_two_active_adapters_are_both_merged_into_4_bits(base, tokenizer, tmp_path):
    tuned = four_bit(base)
    tuned.add_adapter("second", LoraConfig(r=2, target_modules=["down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B.second" in name:
                weight.normal_(std=0.5)
    one = logits(tuned, tokenizer)
    tuned.base_model.set_adapter(["default", "second"])
    merged = export.merge(tuned, tokenizer, tmp_path / "merged")
    assert errors(tuned, merged, tokenizer) < 0.002
    assert (logits(merged, tokenizer) - one).abs().mean() > 0.01


@pytest.mark.parametrize("base", ["tiny_phi3"], indirect=True)
def test_the_disk_that_a_4_bit_merge_needs_is_that_of_the_wide_model(base, tokenizer, tmp_path, monkeypatch):
    tuned = four_bit(base)
    export.merge(tuned, tokenizer, tmp_path / "merged")
    size = (tmp_path / "merged" / "model.safetensors").stat().st_size
    free = size + export.BESIDE_WEIGHTS
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**9, 10**9, free - 10_000))
    with pytest.raises(LessonError, match="disk is too full"):
        export.merge(tuned, tokenizer, tmp_path / "again")
    adapter = sum(weight.nbytes for name, weight in tuned.named_parameters() if "lora_" in name)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**9, 10**9, free + adapter))
    export.merge(tuned, tokenizer, tmp_path / "again")


# ---------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("save", [export.save_adapter, export.merge])
def test_a_failure_in_the_middle_leaves_the_old_one(base, tuned, tokenizer, tmp_path, monkeypatch, save):
    save(tuned, tokenizer, tmp_path / "out")
    old = contents(tmp_path / "out")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full_disk)  # after the weights were written
    with pytest.raises(OSError, match="No space"):
        save(adapted(base, effect=0.3), tokenizer, tmp_path / "out")
    assert contents(tmp_path / "out") == old
    with pytest.raises(OSError, match="No space"):
        save(tuned, tokenizer, tmp_path / "new")
    assert names(tmp_path) == {"base", "out"}


@pytest.mark.parametrize("save", [export.save_adapter, export.merge])
def test_an_export_replaces_an_earlier_one(base, tuned, tokenizer, tmp_path, save):
    (tmp_path / "out").mkdir()  # an empty folder is no obstacle
    save(tuned, tokenizer, tmp_path / "out")
    old = contents(tmp_path / "out")
    (tmp_path / "out" / "left_over.txt").write_text("of the old one")
    save(adapted(base, effect=0.3), tokenizer, tmp_path / "out")
    new = contents(tmp_path / "out")
    assert new.keys() == old.keys() and new != old
    assert names(tmp_path) == {"base", "out"}


def test_a_swap_that_fails_puts_the_old_export_back(base, tuned, tokenizer, tmp_path, monkeypatch):
    from pathlib import Path

    export.save_adapter(tuned, tokenizer, tmp_path / "out")
    old = contents(tmp_path / "out")
    rename = Path.rename

    def fails_for_the_new_one(self, target):
        if self.name.endswith(".partial"):
            raise OSError("swap failed")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(OSError, match="swap failed"):
        export.save_adapter(adapted(base, effect=0.3), tokenizer, tmp_path / "out")
    assert contents(tmp_path / "out") == old and names(tmp_path) == {"base", "out"}


@pytest.mark.parametrize("moved", [True, False])
def test_what_a_killed_process_left_is_cleared_up(tuned, tokenizer, tmp_path, monkeypatch, moved):
    """Killed while writing (the old export in its place) or between the two renames (moved aside)."""
    out = export.save_adapter(tuned, tokenizer, tmp_path / "out")
    old = contents(out)
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half.safetensors").write_text("half")
    if moved:
        out.rename(tmp_path / ".out.old")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1, 1, 0))
    with pytest.raises(LessonError, match="disk is too full"):
        export.save_adapter(tuned, tokenizer, out)
    assert contents(out) == old and names(tmp_path) == {"base", "out"}


@pytest.mark.parametrize("save", [export.save_adapter, export.merge])
def test_too_little_disk_is_found_before_anything_is_written(tuned, tokenizer, tmp_path, monkeypatch, save):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**9, 10**9, 10**6))
    monkeypatch.setattr(type(tuned), "save_pretrained", None)  # would fail if it were called
    with pytest.raises(LessonError, match=r"disk is too full: 0.07 GB are needed .* 0.00 GB are free"):
        save(tuned, tokenizer, tmp_path / "out")
    assert names(tmp_path) == {"base"}


def test_a_folder_that_is_no_export_of_the_kind_is_never_touched(tuned, tokenizer, tmp_path):
    own = tmp_path / "checkpoint-10"
    own.mkdir()
    (own / "adapter_model.safetensors").write_text("weights")
    (own / "trainer_state.json").write_text("{}")
    for save in (export.save_adapter, export.merge):
        with pytest.raises(LessonError, match="checkpoint-10 exists already and is no lessonlib export"):
            save(tuned, tokenizer, own)
    assert names(own) == {"adapter_model.safetensors", "trainer_state.json"}
    adapter = export.save_adapter(tuned, tokenizer, tmp_path / "adapter")
    with pytest.raises(LessonError, match="no lessonlib export of the kind 'merged'"):
        export.merge(tuned, tokenizer, adapter)
    file = tmp_path / "file"
    file.write_text("a learner's")
    with pytest.raises(LessonError, match="file exists already"):
        export.save_adapter(tuned, tokenizer, file)


# ---------------------------------------------------------------- parity


def merged_twice(tuned, base):
    model = tuned.merge_and_unload()
    again = adapted(base, effect=0.02)
    with torch.no_grad():  # W + 2 BA
        for ones, twos, plain in zip(
            model.parameters(), again.merge_and_unload().parameters(), load(base).parameters(), strict=True
        ):
            ones += twos - plain
    return model


FAULTS = {
    "base instead of tuned": lambda base: load(base),
    "merged twice": lambda base: merged_twice(adapted(base), base),
    "scale of alpha, not alpha / r": lambda base: adapted(base, alpha=32),
    "scale off by a tenth": lambda base: adapted(base, alpha=8.8),
    "another adapter": lambda base: adapted(base, effect=0.021),
}


@BOTH
@pytest.mark.parametrize("fault", FAULTS)
def test_parity_catches_a_planted_fault(base, tokenizer, fault):
    tuned = adapted(base)  # a small adapter: its faults hardly change an answer
    report = parity.parity(tuned, FAULTS[fault](base), tokenizer, PROMPTS)
    assert not report.ok
    with pytest.raises(LessonError, match=r"not the same\. Their logits commonly differ by up to .*rounding"):
        report.raise_if_broken()
    same = parity.parity(tuned, adapted(base), tokenizer, PROMPTS)
    assert same.ok and same.kl == pytest.approx(0, abs=1e-9)
    same.raise_if_broken()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_ten_times_larger_logits_is_rounding(dtype, tmp_path):
    """Bounds are shares of the logits' own spread: numbers, as lessons once had, would stop such a model."""
    model, tokenizer = scaled(10)
    model.to(dtype)
    export.merge(model, tokenizer, tmp_path / "merged")
    prompts = ["Đơn hàng của tôi đâu?", "Cửa hàng mở cửa lúc mấy giờ?"]
    merged = load(tmp_path / "merged", dtype=dtype)
    report = parity.parity(model, merged, tokenizer, prompts, max_new_tokens=8)
    assert report.spread > 20 and report.max_difference > 0.2  # what lesson 02 allowed, the widest of them
    assert report.ok and report.top1 > 0.9 and report.kl < 1
    report.raise_if_broken()
    base = load(twin_dir("llama32"), dtype=dtype)
    base.model.norm.weight.data *= 10
    broken = parity.parity(model, base, tokenizer, prompts, max_new_tokens=8)
    with pytest.raises(LessonError, match="not the same"):
        broken.raise_if_broken()


def test_logits_a_little_further_apart_than_rounding_are_reported_and_stop_nothing(base, tokenizer):
    one, two = load(base), load(base)
    exact = parity.parity(one, two, tokenizer, PROMPTS, max_new_tokens=2)
    assert exact.ok and exact.usual_difference == 0
    near = replace(exact, usual_difference=9 * exact.tolerance, max_difference=9 * exact.tolerance)
    assert not near.ok and near.table().loc["in parity", "result"] == "no"
    near.raise_if_broken()
    far = replace(near, usual_difference=11 * exact.tolerance)
    assert not far.ok
    with pytest.raises(LessonError, match="Save or merge again, on the base of the training"):
        far.raise_if_broken()


def test_parity_counts_what_it_says(base, tokenizer):
    tuned, plain = adapted(base, effect=0.5), load(base)
    report = parity.parity(tuned, plain, tokenizer, PROMPTS, max_new_tokens=4)
    said = continuations(tuned, tokenizer, PROMPTS, max_new_tokens=4)
    said_too = continuations(plain, tokenizer, PROMPTS, max_new_tokens=4)
    largest, total, numbers, agreed, positions = 0, 0, 0, 0, 0
    for prompt, answer in zip(PROMPTS, said, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"] + answer])
        with torch.no_grad():
            ones, others = tuned.eval()(ids).logits[0], plain(ids).logits[0]
        largest = max(largest, (ones - others).abs().max().item())
        total, numbers = total + (ones - others).abs().sum().item(), numbers + ones.numel()
        agreed += sum(a.argmax() == b.argmax() for a, b in zip(ones, others, strict=True)).item()
        positions += len(ones)
    assert (report.prompts, report.positions) == (len(PROMPTS), positions)
    assert report.max_difference == pytest.approx(largest, rel=1e-3)
    assert report.mean_difference == pytest.approx(total / numbers, rel=1e-3)
    assert report.top1 == pytest.approx(agreed / positions)
    assert report.greedy_equal == sum(a == b for a, b in zip(said, said_too, strict=True)) < len(PROMPTS)
    assert report.greedy_broken == len(PROMPTS) - report.greedy_equal
    with pytest.raises(LessonError, match=r"\d of 3 greedy answers part where the first model was in no"):
        report.raise_if_broken()


def test_greedy_answers_that_part_at_a_near_tie_are_not_broken(base, tokenizer, monkeypatch):
    monkeypatch.setitem(parity.ROUNDING, "float32", 1e6)
    tuned, plain = adapted(base, effect=0.5), load(base)
    report = parity.parity(tuned, plain, tokenizer, PROMPTS, max_new_tokens=4)
    assert report.greedy_equal < len(PROMPTS) and report.greedy_broken == 0
    assert not report.ok  # no tolerance makes logits equal that are apart by more than 0.4 of their spread


def test_a_cache_that_breaks_generation_is_seen_although_all_logits_agree(base, tokenizer, monkeypatch):
    one, two = load(base), load(base)
    generate = two.generate

    def broken(**inputs):
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])  # padding is read as text
        return generate(**inputs)

    monkeypatch.setattr(two, "generate", broken)
    report = parity.parity(one, two, tokenizer, PROMPTS)
    assert report.max_difference == 0 and report.greedy_broken > 0 and not report.ok


def test_another_tokenizer_is_seen(base, tokenizer):
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()),
        eos_token="</s>", pad_token="<pad>",
    )
    one, two = load(base), load(base)
    assert parity.parity(one, two, tokenizer, PROMPTS, second_tokenizer=other).ok
    from tokenizers.normalizers import NFD

    other.backend_tokenizer.normalizer = NFD()
    report = parity.parity(one, two, tokenizer, PROMPTS, second_tokenizer=other)
    assert not report.same_token_ids and not report.ok and report.max_difference == 0
    with pytest.raises(LessonError, match="Their tokenizers give other token ids for the same prompts"):
        report.raise_if_broken()


def test_a_model_that_gives_nan_is_not_in_parity(base, tokenizer):
    one, two = load(base), load(base)
    with torch.no_grad():
        list(two.parameters())[-1].fill_(float("nan"))
    for pair in ((one, two), (two, one)):
        with pytest.raises(LessonError, match="logits are NaN or infinite"):
            parity.parity(*pair, tokenizer, PROMPTS)
    same = parity.parity(one, load(base), tokenizer, PROMPTS[:1], max_new_tokens=2)
    for number in (float("nan"), float("inf")):  # at a place that no answer comes from
        broken = replace(same, max_difference=number)
        assert not broken.ok
        with pytest.raises(LessonError, match="Their logits commonly differ"):
            broken.raise_if_broken()


def test_parity_refuses_what_proves_nothing(base, tokenizer):
    one = load(base)
    with pytest.raises(LessonError, match="same object"):
        parity.parity(one, one, tokenizer, PROMPTS)
    with pytest.raises(LessonError, match="At least one prompt"):
        parity.parity(one, load(base), tokenizer, [])
    resized = load(base)
    resized.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
    with pytest.raises(LessonError, match="vocabularies differ in size: 357 and 365"):
        parity.parity(one, resized, tokenizer, PROMPTS)


def test_a_parity_report_is_a_table_in_the_readers_language(base, tokenizer):
    report = parity.parity(load(base), load(base), tokenizer, PROMPTS)
    assert report.table().loc["in parity", "result"] == "yes"
    assert report.table().loc["equal greedy answer", "result"] == "3 / 3"
    assert "<table" in report._repr_html_() and "top-1" in str(report)
    language.use("vi")
    assert report.table().loc["khớp nhau", "kết quả"] == "có"


@pytest.mark.parametrize(("close_at", "broken"), [(0, 1), (1, 0)])
def test_the_lead_is_looked_at_where_the_answers_part(base, tokenizer, monkeypatch, close_at, broken):
    one, two = load(base), load(base)
    said = {id(one): [[5, 6]], id(two): [[5, 7]]}  # the second token differs
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    logits = torch.zeros(len(prompt) + 2, 10)
    logits[:, 6] = 1.0  # a clear lead everywhere
    logits[len(prompt) - 1 + close_at, 6] = 1e-6  # but for the token that is answered first or second
    monkeypatch.setattr(parity, "continuations", lambda model, *_, **__: said[id(model)])
    monkeypatch.setattr(parity, "_logits", lambda *_: logits)
    report = parity.parity(one, two, tokenizer, PROMPTS[:1])
    assert (report.greedy_equal, report.greedy_broken) == (0, broken)


@pytest.mark.parametrize(
    "flaw",
    [{"same_token_ids": False}, {"usual_difference": 1.0}, {"max_difference": 1.0}, {"greedy_broken": 1}],
)
def test_one_flaw_alone_is_enough_to_fail(base, tokenizer, flaw):
    report = parity.parity(load(base), load(base), tokenizer, PROMPTS[:1], max_new_tokens=2)
    assert report.ok and not replace(report, **flaw).ok
