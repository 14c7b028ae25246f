"""Float16 with padding on the left: real tokens stay numbers, and those of float32 but for rounding.

Each twin has one head whose raw scores are -20. Attention passes over what is the same for all keys; in
float16 the eager mask on top does not (`_masks`).
"""

import pytest
import torch
from datasets import Dataset
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS
from transformers.masking_utils import eager_mask

from lessonlib.evaluation import _answers as evaluation
from lessonlib.models import _loading as models
from lessonlib.models import _masks
from lessonlib.runtime import _detect as runtime

TEXTS = ["Học máy là gì? Hãy giải thích thật ngắn gọn cho người mới.", "Xin chào!", "Token là gì?"]
# What rounding may do, as a share of the logits' standard deviation; the twins came to 0.3% to 2.1%.
ROUNDING = 0.1
EAGER = [
    ("bloom-560m", {}), ("phi-3-mini", {}), ("llama-3.2-3b", {}), ("gemma-2-2b", {}),
    ("gemma-2-2b", {"sliding_window": 4}),  # narrower than the padding, and than the texts
]  # fmt: skip
SDPA = ["phi-3-mini", "llama-3.2-3b"]  # the families that the course runs with it


@pytest.fixture
def unguarded(monkeypatch):
    """transformers as it is, whatever was loaded before in this process."""
    monkeypatch.setitem(MASKS._global_mapping, "eager", eager_mask)
    monkeypatch.setattr(models, "keep_masks_finite", lambda: None)
    monkeypatch.setattr(evaluation, "keep_masks_finite", lambda: None)


@pytest.fixture
def load(tmp_path):
    """A twin with the low head, and its tokenizer."""

    def run(key, dtype, attention, **settings):
        family = models.CATALOGUE[key].family
        here = runtime.detect(family=family, gpu=None, dtype=dtype, attention=attention, work=tmp_path)
        model, tokenizer = models.load(key, here)
        assert model.dtype == here.torch_dtype and model.config._attn_implementation == attention
        for name, value in settings.items():
            setattr(model.config, name, value)
        lower(model)
        return model, tokenizer

    return run


def lower(model, to=-20.0):
    """Every raw score of the first head of each layer becomes `to`, whatever the text and its length.

    Its queries are 0 but for one number, and that number of its keys is fixed: of the pair of RoPE that
    turns slowest, so that the score is the same at every distance.
    """
    config = model.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads

    def hook(query, key, size):
        def fix(module, inputs, output):
            output = output.clone()
            if query is not None:
                output[..., query : query + width] = 0
                output[..., query + width - 1] = size
            if key is not None:
                output[..., key + width - 1] = -size
            return output

        return fix

    for layer in model.transformer.h if config.model_type == "bloom" else model.model.layers:
        if config.model_type == "bloom":  # a head's query, key and value stand together
            attention = layer.self_attention
            size = (-to / attention.inv_norm_factor) ** 0.5
            attention.query_key_value.register_forward_hook(hook(0, width, size))
            continue
        attention = layer.self_attn
        size = (-to / attention.scaling) ** 0.5
        if config.model_type == "phi3":  # all queries, all keys, all values
            attention.qkv_proj.register_forward_hook(hook(0, heads * width, size))
        else:
            attention.q_proj.register_forward_hook(hook(0, None, size))
            attention.k_proj.register_forward_hook(hook(None, 0, size))


def batch(tokenizer):
    tokenizer.padding_side = "left"
    made = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert (made["attention_mask"][:, 0] == 0).any()
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def real_logits(model, tokenizer):
    """At the real tokens of a left-padded batch: (real tokens, vocabulary)."""
    asked = batch(tokenizer)
    with torch.no_grad():
        return model(**asked).logits.float()[asked["attention_mask"].bool()]


def generated(model, tokenizer, tokens=4):
    """The logits of what a learner's own `model.generate` writes: (texts, new tokens, vocabulary)."""
    said = model.generate(
        **batch(tokenizer), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
        output_logits=True, return_dict_in_generate=True, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return torch.stack(said.logits, dim=1)


def rows(tokenizer):
    """Encoded rows that are padded on the left already; loss on every token but the first real one, which
    would be told from what stands under padding."""
    ids, mask = batch(tokenizer).values()
    labels = ids.masked_fill(mask.cumsum(1) < 2, -100)
    return Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": mask.tolist(), "labels": labels.tolist()}
    )


def apart(first, second):
    """The largest difference, as a share of the first's standard deviation."""
    return ((first - second).abs().max() / first.std()).item()


@pytest.mark.parametrize(("key", "settings"), EAGER)
def test_without_the_guard_a_low_head_makes_real_tokens_nan(load, unguarded, key, settings):
    assert real_logits(*load(key, "float32", "eager", **settings)).isfinite().all()
    model, tokenizer = load(key, "float16", "eager", **settings)
    assert real_logits(model, tokenizer).isnan().any()
    assert generated(model, tokenizer).isnan().any()


@pytest.mark.parametrize(
    ("key", "attention", "settings"),
    [*((key, "eager", settings) for key, settings in EAGER), *((key, "sdpa", {}) for key in SDPA)],
)
def test_float16_says_what_float32_says(load, key, attention, settings):
    wide, tokenizer = load(key, "float32", attention, **settings)
    narrow, _ = load(key, "float16", attention, **settings)
    assert apart(real_logits(wide, tokenizer), real_logits(narrow, tokenizer)) < ROUNDING
    first = generated(wide, tokenizer)[:, 0], generated(narrow, tokenizer)[:, 0]
    assert apart(*first) < ROUNDING  # later ones follow what was written, which rounding may change
    assert generated(narrow, tokenizer).isfinite().all()
    assert len(evaluation.answers(narrow, tokenizer, TEXTS, max_new_tokens=4)) == len(TEXTS)
    ours, theirs = (evaluation.answer_losses(each, rows(tokenizer)) for each in (wide, narrow))
    assert ((ours["nats"] - theirs["nats"]).abs() < 0.05 * ours["tokens"]).all()  # seen: 0.008 a token


@pytest.mark.parametrize("key", SDPA)
def test_sdpa_needs_no_guard(load, unguarded, key):
    """A padding query that sees no key gets zeros from torch itself."""
    assert real_logits(*load(key, "float16", "sdpa")).isfinite().all()


def test_a_model_that_was_loaded_elsewhere_is_guarded_once_it_is_evaluated(load, monkeypatch):
    model, tokenizer = load("bloom-560m", "float16", "eager")
    monkeypatch.setitem(MASKS._global_mapping, "eager", eager_mask)
    assert real_logits(model, tokenizer).isnan().any()
    losses = evaluation.answer_losses(model, rows(tokenizer))
    assert (losses["tokens"] > 0).all() and (losses["nats"] > 0).all()


def test_other_number_formats_get_the_masks_that_they_got(tmp_path):
    size = {"batch_size": 2, "q_length": 4, "kv_length": 4}
    padded = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    for dtype in (torch.float32, torch.bfloat16):
        ours = _masks._finite_eager_mask(**size, attention_mask=padded, dtype=dtype)
        assert torch.equal(ours, eager_mask(**size, attention_mask=padded, dtype=dtype))
    narrow = _masks._finite_eager_mask(**size, attention_mask=padded, dtype=torch.float16)
    assert narrow.min() == -32752 and narrow.isfinite().all()
    assert torch.equal(narrow == 0, ours == 0)  # the same keys are seen
