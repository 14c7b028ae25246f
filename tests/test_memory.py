"""memory: exact parts against real tensors to the byte, estimates against what autograd really keeps."""

import peft
import pytest
import torch
import transformers

from lessonlib import language, lora, memory, models
from lessonlib.language import LessonError

ROWS, LENGTH = 3, 24


def parts(table):
    return dict(zip(table["part"], table["bytes"], strict=True))


def size(tensors):
    """Bytes of these tensors' storages, each storage once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def planned(model, config, **options):
    return parts(memory.plan(model, lora=config, batch_size=ROWS, length=LENGTH, **options))


@pytest.fixture(params=["tiny_bloom", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lora_s_exact_parts_are_those_of_real_tensors(model, dtype):
    config = lora.lora_config(model, r=4)
    plan = planned(model, config, dtype=dtype)
    real = peft.get_peft_model(model.to(getattr(torch, dtype)), config).train()
    trained = [parameter for parameter in real.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in real.parameters() if not parameter.requires_grad]
    # .to() also halved the buffers (Llama's rotary frequencies), which from_pretrained leaves in fp32
    buffers = sum(buffer.numel() * 4 for buffer in real.buffers())
    assert plan["weights"] == size(frozen) + buffers
    assert plan["adapters"] == size(trained)
    if dtype == "float32":  # a step in fp16 is not for the CPU; the adapters are fp32 in both
        check_step(real, trained, plan)


def check_step(model, trained, plan):
    """Runs one step of AdamW and compares its gradients and states with the plan."""
    optimiser = torch.optim.AdamW(trained)
    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH)
    model(input_ids=ids, labels=ids).loss.backward()
    assert plan["gradients"] == size(parameter.grad for parameter in trained)
    optimiser.step()
    states = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert plan["optimiser"] == size(states)


def test_full_fine_tuning_s_exact_parts_are_those_of_real_tensors(model):
    plan = planned(model, None, dtype="float32")
    trained = list(model.train().parameters())
    assert plan["weights"] == size([*trained, *model.buffers()])
    assert plan["adapters"] == 0
    check_step(model, trained, plan)


def test_tied_embeddings_count_once(tiny_llama):
    table = tiny_llama.get_input_embeddings().weight
    assert tiny_llama.lm_head.weight is table
    numbers = {**tiny_llama.config.to_dict(), "tie_word_embeddings": False}
    untied = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(numbers))
    tied_weights = planned(tiny_llama, None)["weights"]
    assert planned(untied, None)["weights"] - tied_weights == table.numel() * 4


def kept_by_autograd(model, rows=ROWS, length=LENGTH):
    """Bytes that one fp32 forward pass really keeps for the backward pass.

    Without the parameters, and without the log-probabilities, which the plan counts with the logits.
    """
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = []

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in known:
            kept.append(tensor)
        return tensor

    ids = torch.arange(rows * length).remainder(300).reshape(rows, length)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    measured = size(kept)
    del loss
    return measured - rows * length * model.config.vocab_size * 4


@pytest.mark.parametrize("targets", ["all", "qkv"])
def test_the_estimate_with_lora_is_near_what_autograd_keeps(model, targets):
    names = {"bloom": ["query_key_value"], "llama": ["q_proj", "k_proj", "v_proj"]}[model.config.model_type]
    chosen = peft.LoraConfig(r=4, target_modules=names) if targets == "qkv" else lora.lora_config(model, r=4)
    plan = planned(model, chosen, dtype="float32")
    measured = kept_by_autograd(peft.get_peft_model(model, chosen).train())
    assert 0.8 < plan["activations"] / measured < 1.3


def test_the_estimate_of_full_fine_tuning_is_near_what_autograd_keeps(model):
    assert 0.8 < planned(model, None, dtype="float32")["activations"] / kept_by_autograd(model.train()) < 1.3


def test_attention_grows_with_the_square_of_the_length(tiny_bloom):
    """Eight times the length, so that the scores weigh most: still the same tolerance."""
    plan = parts(memory.plan(tiny_bloom, batch_size=1, length=8 * LENGTH, dtype="float32"))
    assert 0.8 < plan["activations"] / kept_by_autograd(tiny_bloom.train(), rows=1, length=8 * LENGTH) < 1.3


def test_checkpointing_keeps_the_blocks_inputs(tiny_bloom):
    full, saved = (planned(tiny_bloom, None, dtype="float32", checkpointing=on) for on in (False, True))
    inputs = ROWS * LENGTH * 32 * 4 * 2  # tokens x hidden x fp32 x blocks
    assert saved["activations"] == inputs + full["activations"] // 2
    assert {name for name in full if full[name] != saved[name]} == {"activations", "total"}


def test_checkpointing_really_keeps_one_input_for_each_block(tiny_bloom):
    """Two blocks more keep two inputs more (the block that is computed again comes after the forward)."""
    kept = []
    for blocks in (2, 4):
        tiny_bloom.config.n_layer = blocks
        model = transformers.BloomForCausalLM(tiny_bloom.config).train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        kept.append(kept_by_autograd(model))
    assert (kept[1] - kept[0]) / (ROWS * LENGTH * 32 * 4 * 2) == pytest.approx(1, rel=0.1)


def test_the_real_bloom_560m_on_the_meta_device():
    base = models.skeleton("bloom-560m")
    config = peft.LoraConfig(r=8, target_modules=["query_key_value"], task_type="CAUSAL_LM")
    table = memory.plan(base, lora=config, batch_size=2, length=512)
    plan = parts(table)
    assert plan["weights"] == 559_214_592 * 2
    assert (plan["adapters"], plan["gradients"], plan["optimiser"]) == (786_432 * 4, 786_432 * 4, 786_432 * 8)
    assert plan["logits"] == 12 * 1024 * 250_880
    # Traced tensor by tensor through a meta-device step that casts as autocast on CUDA does: 24 h + 32 bytes
    # for each token and block, and 6 heads x length^2 for each row and block.
    traced = 24 * (1024 * (24 * 1024 + 32) + 2 * 6 * 16 * 512**2)
    assert plan["activations"] == pytest.approx(traced, rel=0.02)
    assert max(plan, key=lambda part: plan[part] if part != "total" else 0) == "logits"
    assert plan["total"] == sum(bytes_ for part, bytes_ in plan.items() if part != "total")
    assert table.loc[table["exact"], "part"].tolist() == ["weights", "adapters", "gradients", "optimiser"]
    assert memory.fits(table, 14.7)


def test_a_chunked_loss_costs_bloom_more_on_short_batches_and_less_on_long_ones():
    base = models.skeleton("bloom-560m")

    def logits(length, loss):
        return parts(memory.plan(base, batch_size=8, length=length, loss=loss))["logits"]

    assert logits(16, "chunked") > logits(16, "full")
    assert logits(512, "chunked") < logits(512, "full") / 5
    assert logits(512, "chunked") == logits(2048, "chunked")


def test_the_model_is_left_as_it_was(tiny_bloom):
    before = [name for name, _ in tiny_bloom.named_modules()]
    seed = torch.random.get_rng_state()
    planned(tiny_bloom, lora.lora_config(tiny_bloom))
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert [name for name, _ in tiny_bloom.named_modules()] == before
    assert all(parameter.requires_grad for parameter in tiny_bloom.parameters())


def test_the_verdict_says_what_is_left_or_what_to_change():
    base = models.skeleton("bloom-560m")
    missing = "are missing. The largest part is logits: try a smaller batch or shorter rows"
    roomy = memory.plan(base, batch_size=1, length=64)
    large = memory.plan(base, batch_size=8, length=512)
    assert memory.fits(roomy, 14.7) and not memory.fits(large, 14.7)
    assert memory.verdict(roomy, 14.7).startswith("It fits. It needs about ")
    assert missing in memory.verdict(large, 14.7)
    language.use("vi")
    assert memory.verdict(roomy, 14.7).startswith("Vừa. Cần khoảng ")
    assert "Phần lớn nhất là logits: hãy thử batch nhỏ hơn" in memory.verdict(large, 14.7)


@pytest.mark.parametrize(
    "largest", ["weights", "adapters", "gradients", "optimiser", "activations", "logits"]
)
def test_every_part_has_its_cure(tiny_bloom, largest):
    table = memory.plan(tiny_bloom, batch_size=1, length=8)
    table.loc[table["part"].isin([largest, "total"]), ["bytes", "gib"]] = [40 * memory.GIB, 40.0]
    assert f"The largest part is {largest}: try " in memory.verdict(table, 14.7)


def test_the_reserve_is_part_of_the_verdict(tiny_bloom):
    table = memory.plan(tiny_bloom, batch_size=1, length=8)
    table.loc[table["part"] == "total", "gib"] = 14.0
    assert not memory.fits(table, 14.7)
    assert memory.fits(table, 15.0)


def test_what_cannot_be_planned_is_refused(tiny_bloom):
    with pytest.raises(LessonError, match="batch_size=0 and length=8 have to be 1 or more"):
        memory.plan(tiny_bloom, batch_size=0, length=8)
    with pytest.raises(LessonError, match="no dtype='int8'. Choose one of: float32, float16, bfloat16"):
        memory.plan(tiny_bloom, batch_size=1, length=8, dtype="int8")
    with pytest.raises(LessonError, match="no loss='liger'. Choose one of: full, chunked"):
        memory.plan(tiny_bloom, batch_size=1, length=8, loss="liger")
    config = lora.lora_config(tiny_bloom)
    with pytest.raises(LessonError, match="has adapters already. Pass the base model and the LoraConfig"):
        memory.plan(peft.get_peft_model(tiny_bloom, config), lora=config, batch_size=1, length=8)


def test_quantised_weights_are_refused(tiny_bloom):
    tiny_bloom.config.quantization_config = {"load_in_4bit": True}
    with pytest.raises(LessonError, match="does not count quantised weights"):
        memory.plan(tiny_bloom, batch_size=1, length=8)
