"""Rows that trl packs into one sequence are trained as if each stood alone; in BLOOM they would not be."""

import pytest
import torch
from datasets import Dataset

from lessonlib.evaluation._parity import packing_leak
from lessonlib.formatting import _chat as chat
from lessonlib.formatting._text_column import IGNORED
from lessonlib.runtime._detect import detect
from lessonlib.runtime._language import LessonError
from lessonlib.training import _trainer as training

TALKS = [
    ("Học máy là gì?", "Một nhánh của AI."),
    ("What is a token?", "A piece of text, such as a word.", "And in Vietnamese?", "Một mẩu văn bản."),
    ("Epoch nghĩa là gì ạ?", "Một lượt đi hết tập huấn luyện."),
    ("Overfitting?", "Nhớ thuộc lòng."),
    ("Cảm ơn ạ!", "Không có gì.", "Chào ạ!", "Chào bạn."),
    ("LoRA?", "Hai ma trận nhỏ cạnh một ma trận lớn đứng yên."),
]
LENGTH = 100


@pytest.fixture(scope="module")
def phi3_tokenizer():
    from twins import tokenizers

    return tokenizers.phi3([" ".join(talk) for talk in TALKS] * 3, vocabulary=400)


@pytest.fixture(scope="module")
def conversations():
    roles = ("user", "assistant") * 2
    return Dataset.from_list([
        {"messages": [{"role": r, "content": c} for r, c in zip(roles, talk, strict=False)]} for talk in TALKS
    ])


@pytest.fixture(params=["assistant", "all"])
def rows(request, conversations, phi3_tokenizer):
    return chat.encode(conversations, phi3_tokenizer, max_length=LENGTH, train_on=request.param)


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")
    return detect(family="llama", profile="rehearsal", gpu=None, work=tmp_path)


def tiny(family):
    """A random model whose layers outweigh the embedding, so that what it reads matters."""
    import transformers

    sizes = {
        "hidden_size": 32, "vocab_size": 400, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    if family == "Bloom":
        sizes |= {"n_layer": 2, "n_head": 2}
    else:
        sizes |= {
            "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1,
        }
    if family == "Gemma2":  # every second layer looks back 8 tokens only; sdpa has no soft-capping
        sizes |= {"head_dim": 16, "sliding_window": 8, "attn_implementation": "eager"}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight *= 5
    return model


KEEP_APART = pytest.mark.parametrize("family", ["Phi3", "Llama", "Gemma2"])


def documents(batch):
    """(ids, labels) of each document of a packed batch: position ids start again at 0."""
    assert batch["input_ids"].shape[0] == 1
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], batch["input_ids"].shape[1]]
    return [
        (batch["input_ids"][0, a:b].tolist(), batch["labels"][0, a:b].tolist())
        for a, b in zip(starts, ends, strict=True)
    ]


def summed_loss(model, ids, labels):
    """Sum of the losses of one document that stands alone, and how many tokens carry it."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    targets = torch.tensor(labels[1:])
    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return loss.item(), int((targets != IGNORED).sum())


@KEEP_APART
def test_what_trl_packs_is_trained_as_if_each_row_stood_alone(runtime, phi3_tokenizer, rows, family):
    model = tiny(family)
    config = training.sft_config(
        runtime, "run", packing=True, max_length=LENGTH, per_device_train_batch_size=2, max_steps=1,
        eval_strategy="steps", eval_steps=50,
    )
    made = training.trainer(model, phi3_tokenizer, rows, config=config, eval_dataset=rows)
    batches = list(made.get_train_dataloader())
    found = [document for batch in batches for document in documents(batch)]
    # Every row is there once, whole; its first label, which no other row may predict, carries no loss.
    wanted = [(row["input_ids"], [IGNORED, *row["labels"][1:]]) for row in rows]
    assert sorted(found) == sorted(wanted)
    plain, across = tiny(family), []
    for batch in batches:
        assert len(documents(batch)) > 1 and "attention_mask" not in batch
        sums = [summed_loss(plain, ids, labels) for ids, labels in documents(batch)]
        alone = sum(loss for loss, _ in sums) / sum(tokens for _, tokens in sums)
        for training_flag in (True, False):
            model.train(training_flag)
            with torch.no_grad():
                together = made.compute_loss(model, dict(batch)).item()
            assert together == pytest.approx(alone, abs=1e-5)
        with torch.no_grad():
            contaminated = plain(batch["input_ids"], labels=batch["labels"], use_cache=False).loss.item()
        across.append(abs(contaminated - alone))
    assert max(across) > 1e-2  # else all this proves nothing


@KEEP_APART
def test_nothing_leaks_between_packed_rows(rows, family):
    model = tiny(family).double()  # so that rounding is far below what is asked
    assert packing_leak(model, rows) < 1e-5
    assert not any(module.training for module in model.modules())


def test_bloom_leaks_and_packing_is_refused_for_it(runtime, phi3_tokenizer, rows):
    model = tiny("Bloom").double()
    leak = packing_leak(model, rows)
    assert leak > 1e-3
    together = torch.tensor([[token for row in rows for token in row["input_ids"]]])
    first, second = (torch.tensor([row["input_ids"]]) for row in rows.select([0, 1]))
    with torch.no_grad():
        packed, one, two = (model(ids, use_cache=False).logits[0] for ids in (together, first, second))
    width = first.shape[1]
    assert torch.allclose(packed[:width], one)  # nothing stands before the first row
    apart = (packed[width : width + second.shape[1]] - two).abs().max().item()
    assert 1e-3 < apart <= leak
    config = training.sft_config(runtime, "run", packing=True, max_length=LENGTH)
    with pytest.raises(LessonError, match="BloomForCausalLM takes no position_ids"):
        training.trainer(tiny("Bloom"), phi3_tokenizer, rows, config=config)


def test_the_leak_is_measured_where_attention_crosses_rows(rows, monkeypatch):
    """With the key-value cache on, transformers does not look for packed rows: everything leaks."""
    model = tiny("Llama").double()
    forward = model.forward

    def with_cache(*args, use_cache, **inputs):
        return forward(*args, use_cache="position_ids" in inputs, **inputs)

    monkeypatch.setattr(model, "forward", with_cache)
    assert packing_leak(model, rows) > 1e-3


def test_the_leak_of_an_adapter_is_that_of_its_model(rows):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny("Phi3").double(), LoraConfig(r=2, target_modules=["qkv_proj"]))
    assert packing_leak(model, rows) < 1e-5
    assert packing_leak(get_peft_model(tiny("Bloom"), LoraConfig(r=2, target_modules=["dense"])), rows) > 1e-3


def test_one_row_cannot_be_packed(rows):
    with pytest.raises(LessonError, match="at least two rows"):
        packing_leak(tiny("Llama"), rows.select([0]))


def test_packing_says_nothing_when_nobody_watches(runtime, phi3_tokenizer, rows, capfd, caplog, monkeypatch):
    import logging

    import datasets

    config = training.sft_config(runtime, "run", packing=True, max_length=LENGTH, max_steps=1)
    datasets.disable_caching()
    try:
        training.trainer(tiny("Phi3"), phi3_tokenizer, rows, config=config)
        assert capfd.readouterr().err == "" and caplog.records == []
        assert not datasets.are_progress_bars_disabled()
        logging.getLogger("trl.trainer.sft_trainer").warning("packing, but the attention")
        assert len(caplog.records) == 1  # the filter is gone again
        monkeypatch.delenv("LESSONLIB_HEADLESS")
        training.trainer(tiny("Phi3"), phi3_tokenizer, rows, config=config)
        assert "Packing train dataset" in capfd.readouterr().err
    finally:
        datasets.enable_caching()


# --- the QLoRA recipe: a 4-bit base, a paged 8-bit optimiser, packing


def quantised(folder):
    """A 4-bit base with an adapter that has been trained before: its numbers are no bf16 ones."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed

    from lessonlib.models import _loading as models

    models._keep_cpu_weights_in_place()
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, device_map={"": "cpu"})
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    set_seed(1)
    # rank 128: a matrix of 4096 numbers and more is what the optimiser keeps in 8 bits
    model = get_peft_model(base, LoraConfig(r=128, lora_dropout=0.05, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.01)
    return model


@pytest.fixture
def four_bit(tmp_path):
    tiny("Phi3").save_pretrained(tmp_path / "base")
    return lambda: quantised(tmp_path / "base")


def weights(model, trained):
    return {name: it.detach().clone() for name, it in model.named_parameters() if it.requires_grad == trained}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_trainer_takes_a_4_bit_models_adapter_as_it_is(runtime, phi3_tokenizer, rows, four_bit):
    model = four_bit()
    before = weights(model, trained=True)
    training.trainer(model, phi3_tokenizer, rows, config=training.sft_config(runtime, "run"))
    assert same(before, weights(model, trained=True))
    assert {it.dtype for it in before.values()} == {torch.float32}
    assert not all(torch.equal(it, it.bfloat16().float()) for it in before.values())


def test_qlora_with_packing_goes_on_after_an_interruption_to_the_same_weights(
    runtime, phi3_tokenizer, conversations, four_bit
):
    import shutil

    rows = chat.encode(conversations, phi3_tokenizer, max_length=LENGTH)
    config = training.sft_config(
        runtime, "run", packing=True, max_length=LENGTH, optim="paged_adamw_8bit", learning_rate=1e-2,
        max_steps=3, per_device_train_batch_size=1, save_steps=1, save_total_limit=3, logging_steps=1,
    )
    model = four_bit()
    start, frozen = weights(model, trained=True), weights(model, trained=False)
    made = training.trainer(model, phi3_tokenizer, rows, config=config)
    training.fit(made)
    end = weights(model, trained=True)
    assert not any(torch.equal(start[name], end[name]) for name in end)
    assert same(frozen, weights(model, trained=False))
    kept = [value.dtype for state in made.optimizer.state.values() for value in state.values()
            if getattr(value, "numel", int)() >= 4096]
    assert kept and set(kept) == {torch.uint8}
    losses = training.history(made)["loss"].tolist()
    for step in (2, 3):
        shutil.rmtree(runtime.work / "run" / f"checkpoint-{step}")
    again = four_bit()
    resumed = training.trainer(again, phi3_tokenizer, rows, config=config)
    training.fit(resumed)
    assert same(end, weights(again, trained=True))
    assert training.history(resumed)["loss"].tolist() == losses
