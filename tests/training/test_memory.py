"""memory: what is counted, against real tensors to the byte; verdicts. Estimates: see test_activations."""

import peft
import pytest
import torch
import transformers
from transformers import BitsAndBytesConfig, Trainer, TrainingArguments

from lessonlib.lora import _config as lora
from lessonlib.models import _loading as models
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.training import _memory as memory

ROWS, LENGTH = 3, 24
PARTS = ["weights", "constants", "adapters", "gradients", "optimiser", "activations", "logits"]


def parts(table):
    return dict(zip(table["part"], table["bytes"], strict=True))


def size(tensors):
    """Bytes of these tensors' storages, each storage once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def planned(model, config, **options):
    return parts(memory.plan(model, lora=config, batch_size=ROWS, length=LENGTH, **options))


@pytest.fixture(params=["tiny_bloom", "tiny_llama", "tiny_phi3", "tiny_gemma2"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def loaded(tmp_path):
    """Saves a model and loads it again as `models.load` does on a CPU, with these arguments."""

    def load(model, dtype="float32", **arguments):
        model.save_pretrained(tmp_path)
        arguments |= {"dtype": dtype, "attn_implementation": model.config._attn_implementation}
        return type(model).from_pretrained(tmp_path, **arguments)

    return load


@pytest.fixture
def in_4bit(loaded):
    """Loads a model again in 4 bits."""

    def load(model, dtype="float32", double=True, **settings):
        models._keep_cpu_weights_in_place()
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=dtype, **settings,
        )
        return loaded(model, dtype, quantization_config=config, device_map={"": "cpu"})

    return load


def quant_tensors(model):
    """Every tensor in bitsandbytes' QuantStates, however deep."""
    found = []

    def walk(state):
        for value in vars(state).values():
            if isinstance(value, torch.Tensor):
                found.append(value)
            elif type(value) is type(state):
                walk(value)

    for parameter in model.parameters():
        if getattr(parameter, "quant_state", None) is not None:
            walk(parameter.quant_state)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lora_s_exact_parts_are_those_of_real_tensors(model, dtype, loaded):
    config = lora.lora_config(model, r=4)
    plan = planned(model, config, dtype=dtype)
    real = peft.get_peft_model(loaded(model, dtype), config).train()
    trained = [parameter for parameter in real.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in real.parameters() if not parameter.requires_grad]
    assert plan["weights"] == size([*frozen, *real.buffers()])
    assert plan["constants"] == 0
    assert plan["adapters"] == size(trained)
    if dtype == "float32":  # a step in fp16 is not for the CPU; the adapters are fp32 in both
        check_step(real, trained, plan)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_4_bits_exact_parts_are_those_of_real_tensors(model, dtype, in_4bit):
    config = lora.lora_config(model, r=4)
    plan = planned(model, config, dtype=dtype, quantisation="nf4")
    base = in_4bit(model, dtype)
    assert planned(base, config, dtype=dtype) == plan  # the loaded model is recognised
    real = peft.get_peft_model(base, config).train()
    trained = [parameter for parameter in real.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in real.parameters() if not parameter.requires_grad]
    assert plan["weights"] == size([*frozen, *real.buffers()])
    assert plan["constants"] == size(quant_tensors(real))
    assert plan["adapters"] == size(trained)
    if dtype == "float32":
        check_step(real, trained, plan)


def test_4_bits_without_double_quantisation_and_with_other_layers_left_out(tiny_llama, in_4bit):
    config = lora.lora_config(tiny_llama, r=4)
    real = in_4bit(tiny_llama, double=False, llm_int8_skip_modules=["lm_head", "down_proj"])
    plan = planned(real, config, dtype="float32")
    assert plan["weights"] == size([*real.parameters(), *real.buffers()])
    assert plan["constants"] == size(quant_tensors(real))
    # The same from the config alone, as a checkpoint that was published in 4 bits has it.
    tiny_llama.config.quantization_config = real.config.quantization_config.to_dict()
    assert planned(tiny_llama, config, dtype="float32") == plan


def test_4_bits_of_a_checkpoint_that_was_saved_in_4_bits(tiny_phi3, in_4bit, loaded):
    config = lora.lora_config(tiny_phi3, r=4)
    plan = planned(tiny_phi3, config, dtype="float32", quantisation="nf4")
    assert planned(loaded(in_4bit(tiny_phi3)), config, dtype="float32") == plan


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


@pytest.fixture
def no_overrides():
    """bitsandbytes remembers by id and place which parameters stay in 32 bits, across optimisers."""
    from bitsandbytes.optim import GlobalOptimManager

    GlobalOptimManager.get_instance().initialize()
    yield
    GlobalOptimManager.get_instance().initialize()


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("optim", memory._OPTIMISERS)
def test_the_optimiser_s_states_are_those_of_the_trainer(tiny_llama, optim, full, tmp_path, no_overrides):
    # Above bitsandbytes' 4096 numbers and no multiple of its 256: LoRA's 150 x 32, and the MLP's 130 x 32.
    config = None if full else lora.lora_config(tiny_llama, r=150)
    tiny_llama.config.intermediate_size = 130
    tiny_llama = transformers.LlamaForCausalLM(tiny_llama.config)
    plan = planned(tiny_llama, config, dtype="float32", optim=optim)
    rows = [{"input_ids": list(range(8)), "labels": list(range(8))}]
    arguments = TrainingArguments(
        str(tmp_path), optim=optim, max_steps=1, use_cpu=True, report_to="none", save_strategy="no",
        disable_tqdm=True,
    )
    model = tiny_llama if full else peft.get_peft_model(tiny_llama, config)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    states = trainer.optimizer.optimizer.state.values()
    tensors = {name: value for state in states for name, value in state.items() if name != "step"}
    assert ("qmap1" in tensors) == ("8bit" in optim)
    real = [value for state in states for name, value in state.items() if name != "step"]
    assert plan["optimiser"] == size(tensor for tensor in real if isinstance(tensor, torch.Tensor))


def test_8_bits_help_tensors_of_4096_numbers_and_more():
    tensors = [torch.empty(4095, device="meta"), torch.empty(4096, device="meta")]
    assert memory._optimiser(tensors[:1], set(), 8) == 4095 * 8
    assert memory._optimiser(tensors[1:], set(), 8) == 4096 * 2 + 16 * 2 * 4 + 2048
    assert memory._optimiser(tensors, {tensors[1]}, 8) == (4095 + 4096) * 8
    assert memory._optimiser(tensors, set(), 32) == (4095 + 4096) * 8


def test_tied_embeddings_count_once(tiny_llama):
    table = tiny_llama.get_input_embeddings().weight
    assert tiny_llama.lm_head.weight is table
    numbers = {**tiny_llama.config.to_dict(), "tie_word_embeddings": False}
    untied = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(numbers))
    tied_weights = planned(tiny_llama, None)["weights"]
    assert planned(untied, None)["weights"] - tied_weights == table.numel() * 4


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
    assert table["part"].tolist() == [*PARTS, "total"]
    assert table.loc[table["exact"], "part"].tolist() == PARTS[:5]
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
    assert torch.get_default_dtype() == torch.float32
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


@pytest.mark.parametrize("largest", PARTS)
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
    with pytest.raises(LessonError, match="no quantisation='int4'. Choose one of: none, nf4"):
        memory.plan(tiny_bloom, batch_size=1, length=8, quantisation="int4")
    with pytest.raises(LessonError, match="no optim='sgd'. Choose one of: adamw_torch, .*, paged_adamw_8bit"):
        memory.plan(tiny_bloom, batch_size=1, length=8, optim="sgd")
    config = lora.lora_config(tiny_bloom)
    with pytest.raises(LessonError, match="has adapters already. Pass the base model and the LoraConfig"):
        memory.plan(peft.get_peft_model(tiny_bloom, config), lora=config, batch_size=1, length=8)


def test_full_fine_tuning_in_4_bits_is_refused(tiny_bloom):
    with pytest.raises(LessonError, match="cannot be trained themselves .* Pass lora="):
        memory.plan(tiny_bloom, batch_size=1, length=8, quantisation="nf4")
    tiny_bloom.config.quantization_config = {"load_in_4bit": True}
    with pytest.raises(LessonError, match="cannot be trained themselves"):
        memory.plan(tiny_bloom, batch_size=1, length=8)


@pytest.mark.parametrize(
    "settings, named",
    [
        (BitsAndBytesConfig(load_in_8bit=True), "quantised in 8 bits"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "quantised in 8 bits"),
        ({"quant_method": "gptq", "bits": 4}, "quantised in gptq"),
    ],
)
def test_other_ways_to_quantise_are_refused(tiny_bloom, settings, named):
    config = lora.lora_config(tiny_bloom)
    tiny_bloom.config.quantization_config = settings
    with pytest.raises(LessonError, match=named):
        memory.plan(tiny_bloom, lora=config, batch_size=1, length=8)
    language.use("vi")
    with pytest.raises(LessonError, match="Hãy nạp ở 4 bit"):
        memory.plan(tiny_bloom, lora=config, batch_size=1, length=8)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_comes_once_the_logits_are_gone_counts_where_it_is_more(checkpointing):
    """The two losses differ in nothing else, so the fuller moment is that of the logits or of the block."""
    base = models.skeleton("phi-3-mini")
    config = lora.lora_config(base, r=16)
    shape = {"lora": config, "batch_size": 1, "length": 2048, "quantisation": "nf4"}
    full, chunked = (
        parts(memory.plan(base, **shape, checkpointing=checkpointing, loss=loss))
        for loss in ("full", "chunked")
    )
    kept, later = memory.activations.kept(
        lora.with_adapters(lora.empty_copy(base, "float16"), config), batch_size=1, length=2048, size=2,
        checkpointing=checkpointing, largest=16384 * 3072,
    )
    assert full["logits"] > later > chunked["logits"] > 0
    assert full["activations"] == kept
    assert chunked["activations"] + chunked["logits"] == kept + later


def test_phi_3_mini_in_4_bits_by_hand():
    base = models.skeleton("phi-3-mini")
    config = lora.lora_config(base, r=16)
    options = {"quantisation": "nf4", "optim": "adamw_8bit"}
    plan = parts(memory.plan(base, lora=config, batch_size=1, length=512, **options))
    matrices = [(9216, 3072), (3072, 3072), (16384, 3072), (3072, 8192)]  # qkv, o, gate and up, down
    linear = 32 * sum(rows * columns for rows, columns in matrices)
    others = 2 * 32064 * 3072 + (2 * 32 + 1) * 3072  # embeddings and head, not tied; the norms
    assert plan["weights"] == linear // 2 + others * 2 + 2 * 48 * 4  # and two buffers of rotary frequencies
    # 8 bits for each block of 64, 32 for each 256 blocks; offset and two tables for each of the matrices
    assert plan["constants"] == linear // 64 + linear // 64 // 256 * 4 + 32 * 4 * (4 + 64 + 1024)
    adapters = 32 * 16 * sum(rows + columns for rows, columns in matrices)
    assert adapters == 25_165_824
    assert plan["adapters"] == plan["gradients"] == adapters * 4
    assert plan["optimiser"] == adapters * 2 + adapters // 256 * 8 + 2048
