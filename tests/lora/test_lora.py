"""lora: what is reached in each architecture, what is refused, and the real BLOOM-560m counted."""

import copy
import dataclasses
import sys
import types

import peft
import pytest
import torch
import transformers
from peft import get_peft_model

from lessonlib.lora import _config as lora
from lessonlib.models import _loading as models
from lessonlib.runtime import _detect as runtime
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError

T4 = runtime.Gpu("Tesla T4", (7, 5), 14.7)
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0,
}
LLAMA = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def on_meta(config):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.LlamaConfig(**SMALL), LLAMA),
        (transformers.Gemma2Config(**SMALL), LLAMA),
        (transformers.Phi3Config(**SMALL), {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
        (
            transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2),
            {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
        ),
        (
            transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2),
            {"c_attn", "c_proj", "c_fc"},
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_all_is_every_linear_layer_of_the_blocks(config, expected):
    model = on_meta(config)
    chosen = lora.lora_config(model)
    assert set(chosen.target_modules) == expected
    assert chosen.fan_in_fan_out == (config.model_type == "gpt2")
    table = lora.adapted(get_peft_model(model, chosen)).set_index("module")
    assert set(table.index) == expected | {"total"}
    assert (table["r"] == 8).all()


def test_the_numbers_arrive(tiny_bloom):
    chosen = lora.lora_config(tiny_bloom, r=4, alpha=32, dropout=0.05)
    assert (chosen.r, chosen.lora_alpha, chosen.lora_dropout) == (4, 32, 0.05)
    assert (chosen.bias, chosen.task_type) == ("none", "CAUSAL_LM")


def test_real_bloom_560m_has_786_432_lora_parameters_at_r_8():
    """On the meta device: no weights, no network. The same with peft's default targets as by name."""
    default = get_peft_model(models.skeleton("bloom-560m"), peft.LoraConfig(r=8, task_type="CAUSAL_LM"))
    base = models.skeleton("bloom-560m")
    with pytest.warns(UserWarning, match="dense, dense_h_to_4h, dense_4h_to_h"):
        chosen = lora.lora_config(base, r=8, targets=["query_key_value"])
    named = get_peft_model(base, chosen)
    assert default.get_nb_trainable_parameters() == named.get_nb_trainable_parameters()
    table = lora.adapted(named).set_index("module")
    assert table.loc["query_key_value", ["layers", "shape", "r"]].tolist() == [24, "1024 -> 3072", 8]
    assert table.loc["total", "parameters"] == 24 * 8 * (1024 + 3072) == 786_432
    assert table.loc["total", "share"] == pytest.approx(786_432 / (559_214_592 + 786_432))
    assert table.loc["dense", ["layers", "r", "parameters"]].tolist() == [24, 0, 0]


def test_adapted_counts_what_peft_counts(tiny_llama):
    model = get_peft_model(tiny_llama, lora.lora_config(tiny_llama, r=2))
    table = lora.adapted(model).set_index("module")
    trainable, everything = model.get_nb_trainable_parameters()
    assert table.loc["total", "parameters"] == trainable
    assert table.loc["total", "share"] == trainable / everything
    assert table["parameters"].iloc[:-1].sum() == trainable
    # k_proj: 32 -> 16 (one key-value head of two), two layers, rank 2
    assert table.loc["k_proj", ["shape", "parameters"]].tolist() == ["32 -> 16", 2 * 2 * (32 + 16)]
    assert table.loc["total", ["layers", "r"]].tolist() == [14, 2]


def test_adapters_of_a_half_precision_base_are_fp32(tiny_bloom):
    model = get_peft_model(tiny_bloom.half(), lora.lora_config(tiny_bloom))
    kinds = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert kinds == {True: torch.float32, False: torch.float16}


def test_training_moves_all_adapted_layers(tiny_bloom):
    model = get_peft_model(tiny_bloom, lora.lora_config(tiny_bloom)).train()
    ids = torch.arange(8).unsqueeze(0)
    model(input_ids=ids, labels=ids).loss.backward()
    grown = [name for name, parameter in model.named_parameters()
             if "lora_B" in name and parameter.grad is not None and parameter.grad.abs().sum() > 0]
    assert len(grown) == 2 * 4


def test_a_name_that_matches_nothing_is_refused_with_close_matches(tiny_bloom):
    with pytest.raises(LessonError, match="'query_key_values'; did you mean query_key_value.*has: query_"):
        lora.lora_config(tiny_bloom, targets=["query_key_values", "dense"])
    with pytest.raises(LessonError, match="is called 'q_proj'. This model has"):
        lora.lora_config(tiny_bloom, targets=["query_key_value", "q_proj"])
    language.use("vi")
    with pytest.raises(LessonError, match="có phải ý bạn là query_key_value"):
        lora.lora_config(tiny_bloom, targets=["query_key_values"])


@pytest.mark.parametrize("name", ["lm_head", "word_embeddings"])
def test_head_and_embeddings_are_refused(tiny_bloom, name):
    with pytest.raises(LessonError, match=f"No linear layer in the decoder blocks is called '{name}'"):
        lora.lora_config(tiny_bloom, targets=[name])


def test_the_phi3_mistake_is_noticed():
    """Five names of which three do not exist in Phi-3, because its projections are fused."""
    phi3 = on_meta(transformers.Phi3Config(**SMALL))
    with pytest.raises(LessonError, match="'q_proj'; did you mean .*qkv_proj"):
        lora.lora_config(phi3, targets=["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"])
    with pytest.warns(UserWarning, match="will not reach these layers: qkv_proj, gate_up_proj"):
        lora.lora_config(phi3, targets=["o_proj", "down_proj"])


def test_a_full_list_gives_no_warning(tiny_bloom, recwarn):
    lora.lora_config(tiny_bloom, targets=["query_key_value", "dense", "mlp.dense_h_to_4h", "dense_4h_to_h"])
    assert not [warning for warning in recwarn if warning.category is UserWarning]


@pytest.mark.parametrize("targets", ["all-linear", []])
def test_targets_are_all_or_a_list(tiny_bloom, targets):
    with pytest.raises(LessonError, match="neither 'all' nor a list of names, such as .'query_key_value'"):
        lora.lora_config(tiny_bloom, targets=targets)


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ({"r": 0}, "r >= 1"),
        ({"r": 2.5}, "r >= 1"),
        ({"alpha": 0}, "alpha > 0"),
        ({"dropout": 1.0}, "0 <= dropout < 1"),
    ],
)
def test_numbers_out_of_range_are_refused(tiny_bloom, numbers, rule):
    with pytest.raises(LessonError, match=rule):
        lora.lora_config(tiny_bloom, **numbers)


def test_a_model_with_adapters_is_refused(tiny_bloom):
    chosen = lora.lora_config(tiny_bloom)
    with pytest.raises(LessonError, match="has LoRA adapters already.*model.unload"):
        lora.lora_config(get_peft_model(tiny_bloom, chosen))


def test_adapted_wants_a_model_with_lora(tiny_bloom):
    with pytest.raises(LessonError, match="no LoRA layers. Call peft.get_peft_model"):
        lora.adapted(tiny_bloom)


# Rows of new tokens


def test_new_tokens_are_rows_of_a_tied_embedding_or_of_both_matrices(tiny_llama, tiny_phi3):
    assert lora.lora_config(tiny_llama).trainable_token_indices is None
    assert lora.lora_config(tiny_llama, new_tokens=(7, 5)).trainable_token_indices == [7, 5]
    both = lora.lora_config(tiny_phi3, new_tokens=[7, 5]).trainable_token_indices
    assert both == {"embed_tokens": [7, 5], "lm_head": [7, 5]}


def test_adapted_counts_rows_too(tiny_llama, tiny_phi3, plain):
    rows = {}
    for model, hidden in ((tiny_llama, 32), (tiny_phi3, 36)):
        tuned = lora.attach(model, lora.lora_config(model, r=2, new_tokens=[7, 5, 6]), plain)
        table = lora.adapted(tuned).set_index("module")
        trainable, everything = tuned.get_nb_trainable_parameters()
        assert table.loc["total", "parameters"] == trainable
        assert table["parameters"].iloc[:-1].sum() == trainable
        assert table.loc["total", "share"] == trainable / everything
        assert table.loc["embed_tokens", ["layers", "shape", "r"]].tolist() == [1, f"3 x {hidden}", 0]
        assert table.loc["embed_tokens", "parameters"] == 3 * hidden
        assert table.loc["total", "layers"] == 2 * len(tuned.active_peft_config.target_modules)
        rows[hidden] = list(lora.trained_rows(tuned))
    assert [len(rows[32]), len(rows[36])] == [1, 2] and rows[36][1].endswith("lm_head")


@pytest.mark.parametrize("ids", [[], [5, 5], [-1], [3, 4000]])
def test_new_tokens_need_a_row_each(tiny_llama, ids):
    with pytest.raises(LessonError, match="new_tokens=.* will not do.*Call lora.add_tokens on this very"):
        lora.lora_config(tiny_llama, new_tokens=ids)


def test_a_model_without_decoder_blocks_is_refused():
    with pytest.raises(LessonError, match="no linear layers in decoder blocks of Linear"):
        lora.lora_config(torch.nn.Linear(2, 2))


# Attaching


@pytest.fixture
def plain(tmp_path):
    return runtime.detect(gpu=None, work=tmp_path)


def first_a(model):
    return torch.cat([it.flatten() for name, it in model.named_parameters() if "lora_A" in name])


def test_attached_is_what_peft_makes_after_the_seed(tiny_llama, plain):
    config = lora.lora_config(tiny_llama, r=4, dropout=0.1)
    torch.manual_seed(3407)
    by_hand = first_a(get_peft_model(copy.deepcopy(tiny_llama), config))
    torch.manual_seed(1)  # what was drawn before does not matter
    attached = lora.attach(copy.deepcopy(tiny_llama), config, plain)
    assert isinstance(attached, peft.PeftModel)
    assert attached.peft_config["default"].lora_dropout == 0.1
    assert torch.equal(first_a(attached), by_hand)
    assert not torch.equal(first_a(lora.attach(tiny_llama, config, plain, seed=1)), by_hand)


def test_a_model_with_adapters_gets_no_second_ones(tiny_llama, plain):
    config = lora.lora_config(tiny_llama)
    adapted = lora.attach(tiny_llama, config, plain)
    with pytest.raises(LessonError, match="LoRA adapters already.*unload"):
        lora.attach(adapted, config, plain)


@pytest.mark.parametrize(("gpu", "checkpointing"), [(None, False), (T4, "unsloth")])
def test_unsloth_gets_the_same_numbers_from_the_config(tiny_llama, tmp_path, monkeypatch, gpu, checkpointing):
    passed = {}
    found = dataclasses.replace(runtime.detect(gpu=gpu, work=tmp_path), backend="unsloth")
    module = types.ModuleType("unsloth")
    module.FastLanguageModel = types.SimpleNamespace(
        get_peft_model=lambda model, **given: passed.update(given, model=model)
    )
    monkeypatch.setitem(sys.modules, "unsloth", module)
    lora.attach(tiny_llama, lora.lora_config(tiny_llama, r=16, alpha=32, dropout=0.05), found, seed=7)
    assert passed == {
        "model": tiny_llama, "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "bias": "none",
        "target_modules": sorted(LLAMA), "layers_to_transform": None, "layers_pattern": None,
        "use_rslora": False, "modules_to_save": None, "init_lora_weights": True, "random_state": 7,
        "use_gradient_checkpointing": checkpointing,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
    ],
)
def test_what_unsloth_would_not_get_is_refused(tiny_llama, tmp_path, changed, named):
    found = dataclasses.replace(runtime.detect(gpu=None, work=tmp_path), backend="unsloth")
    config = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", **changed)
    with pytest.raises(LessonError, match=f"cannot pass on {named} of the LoraConfig"):
        lora.attach(tiny_llama, config, found)
    with pytest.raises(LessonError, match="names no target_modules"):
        lora.attach(tiny_llama, peft.LoraConfig(), found)
