"""activations: the estimates against what autograd really keeps, and against a traced step at real size."""

import peft
import pytest
import torch
import transformers
from transformers import BitsAndBytesConfig

from lessonlib.lora import _config as lora
from lessonlib.models import _loading as models
from lessonlib.models._quantisation import quantised_linears
from lessonlib.training import _activations as activations
from lessonlib.training import _memory as memory

ROWS, LENGTH = 3, 24
FAMILIES = ["bloom", "llama", "phi3", "gemma2"]
RMS_FAMILIES = ["llama", "phi3", "gemma2"]  # under autocast, CPU and CUDA treat LayerNorm differently


@pytest.fixture
def tiny(request):
    return lambda family: request.getfixturevalue(f"tiny_{family}")


def shadow_of(model, config, dtype="float32"):
    """The model as `memory.plan` hands it to this module."""
    empty = lora.empty_copy(model, dtype)
    return lora.with_adapters(empty, config) if config else empty


def estimate(model, config, dtype="float32", rows=ROWS, length=LENGTH, **options):
    shadow = shadow_of(model, config, dtype)
    options = {"checkpointing": False, **options}
    return activations.kept(shadow, batch_size=rows, length=length, size=memory._BYTES[dtype], **options)


def largest(model):
    return max(layer.weight.numel() for layer in quantised_linears(model).values())


def loaded_in_4bit(model, folder, dtype):
    models._keep_cpu_weights_in_place()
    model.save_pretrained(folder)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    attention = model.config._attn_implementation
    return type(model).from_pretrained(
        folder, dtype=dtype, quantization_config=config, device_map={"": "cpu"}, attn_implementation=attention
    )


def size(tensors):
    """Bytes of these tensors' storages, each storage once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def kept_by_autograd(model, dtype="float32", rows=ROWS, length=LENGTH):
    """Bytes that one forward pass really keeps for the backward pass.

    Without the parameters, and without what the plan counts with the logits: the log-probabilities, and under
    softcapping the tanh. One token is padding, so that attention gets a mask as it does in a batch.
    """
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved = []

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in known:
            saved.append(tensor)
        return tensor

    ids = torch.arange(rows * length).remainder(300).reshape(rows, length)
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    autocast = torch.autocast("cpu", dtype=torch.float16, enabled=dtype == "float16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
    measured = size(saved)
    del loss
    capped = getattr(model.config, "final_logit_softcapping", None)
    per_logit = 4 + (memory._BYTES[dtype] if capped else 0)
    return measured - rows * length * model.config.vocab_size * per_logit


@pytest.fixture
def one_byte_masks(monkeypatch):
    """Dropout keeps a mask of one byte for each number, as on CUDA; the CPU keeps a number of the dtype."""

    def dropout(values, p=0.5, training=True, inplace=False):
        return torch.native_dropout(values, p, True)[0] if training and p else values

    monkeypatch.setattr(torch.nn.functional, "dropout", dropout)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_lora_in_fp32(tiny, family, quantised, dropout, one_byte_masks, tmp_path):
    base = tiny(family)
    config = lora.lora_config(base, r=4, dropout=dropout)
    planned, _ = estimate(base, config, largest=largest(base) if quantised else 0)
    base = loaded_in_4bit(base, tmp_path, torch.float32) if quantised else base
    measured = kept_by_autograd(peft.get_peft_model(base, config).train())
    assert 0.9 < planned / measured < 1.1


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("family", RMS_FAMILIES)
def test_with_lora_over_16_or_4_bits_under_autocast(
    tiny, family, quantised, dropout, one_byte_masks, tmp_path, monkeypatch
):
    base = tiny(family)
    config = lora.lora_config(base, r=4, dropout=dropout)
    planned, _ = estimate(base, config, "float16", largest=largest(base) if quantised else 0)
    base = loaded_in_4bit(base, tmp_path, torch.float16) if quantised else base.half()
    model = peft.get_peft_model(base, config).train()
    # peft asks for CUDA's autocast, whatever the device, before it casts the input of a 4-bit layer. Others
    # name the device, and torch.autocast itself goes back to the answer.
    of_device = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: of_device(*device) if device else True)
    measured = kept_by_autograd(model, "float16")
    assert 0.9 < planned / measured < 1.1


# Not BLOOM in 16 bits: LayerNorm under autocast is another thing on the CPU than on CUDA.
@pytest.mark.parametrize(
    "family, targets, dtype",
    [
        ("bloom", ["query_key_value"], "float32"),
        *(("llama", ["q_proj", "k_proj", "v_proj"], dtype) for dtype in ("float32", "float16")),
        *(("phi3", ["o_proj", "down_proj"], dtype) for dtype in ("float32", "float16")),
    ],
)
def test_where_only_some_layers_learn(tiny, family, targets, dtype):
    base = tiny(family)
    config = peft.LoraConfig(r=4, target_modules=targets)
    planned, _ = estimate(base, config, dtype)
    model = peft.get_peft_model(base.to(getattr(torch, dtype)), config).train()
    measured = kept_by_autograd(model, dtype)
    assert 0.9 < planned / measured < 1.1


@pytest.mark.parametrize(
    "family, dtype",
    [*((family, "float32") for family in FAMILIES), *((family, "float16") for family in RMS_FAMILIES)],
)
def test_full_fine_tuning(tiny, family, dtype):
    base = tiny(family)
    planned, _ = estimate(base, None, dtype)
    measured = kept_by_autograd(base.train(), dtype)
    assert 0.85 < planned / measured < 1.15


@pytest.mark.parametrize("family", ["bloom", "gemma2"])
def test_eager_attention_grows_with_the_square_of_the_length(tiny, family):
    """Eight times the length, so that the scores weigh most: still the same tolerance."""
    base = tiny(family)
    planned, _ = estimate(base, None, rows=1, length=8 * LENGTH)
    measured = kept_by_autograd(base.train(), rows=1, length=8 * LENGTH)
    assert 0.9 < planned / measured < 1.1


def test_a_fused_qkv_keeps_more_than_three_matrices(tiny_phi3):
    """Phi-3's v is a slice of what qkv_proj made, which keeps q and k beside their rotated copies."""
    config = tiny_phi3.config
    numbers = {name: getattr(config, name) for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads",
    )}
    split = transformers.LlamaForCausalLM(transformers.LlamaConfig(**numbers))
    fused_bytes, split_bytes = (estimate(model, None)[0] for model in (tiny_phi3, split))
    assert fused_bytes - split_bytes == ROWS * LENGTH * 4 * (36 + 36) * 2  # tokens, fp32, q and k, blocks


def test_checkpointing_keeps_the_blocks_inputs_and_computes_one_again(tiny_bloom):
    (whole, work), (inputs, later) = (estimate(tiny_bloom, None, checkpointing=on) for on in (False, True))
    assert inputs == ROWS * LENGTH * 32 * 4 * 2  # tokens x hidden x fp32 x blocks
    assert later == work + whole // 2
    assert work == ROWS * LENGTH * 3 * 4 * 128  # gradients of the MLP, 4 x 32 wide


def test_checkpointing_really_keeps_one_input_for_each_block(tiny_bloom):
    """Two blocks more keep two inputs more (the block that is computed again comes after the forward)."""
    kept = []
    for blocks in (2, 4):
        tiny_bloom.config.n_layer = blocks
        model = transformers.BloomForCausalLM(tiny_bloom.config).train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        kept.append(kept_by_autograd(model))
    assert (kept[1] - kept[0]) / (ROWS * LENGTH * 32 * 4 * 2) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_backward_pass_really_copies_4_bit_matrices_into_dtype(tiny_llama, dtype, tmp_path, monkeypatch):
    from bitsandbytes import functional

    config = lora.lora_config(tiny_llama, r=4)
    biggest = largest(tiny_llama)
    planned = [estimate(tiny_llama, config, dtype, largest=numbers)[1] for numbers in (0, biggest)]
    model = peft.get_peft_model(loaded_in_4bit(tiny_llama, tmp_path, getattr(torch, dtype)), config).train()
    ids = torch.arange(LENGTH)[None]
    with torch.autocast("cpu", dtype=torch.float16, enabled=dtype == "float16"):
        loss = model(input_ids=ids, labels=ids).loss
    copies, original = [], functional.dequantize_4bit

    def dequantise(codes, state):
        copies.append(original(codes, state))
        return copies[-1]

    monkeypatch.setattr(functional, "dequantize_4bit", dequantise)
    loss.backward()
    scales = 2 * 4 * biggest // 64
    assert planned[1] - planned[0] == max(map(size, ([copy] for copy in copies))) + scales


# GiB above weights, adapters and optimiser at the peak of a step at real size, LoRA r 16 on all layers: every
# tensor of a meta-device step that casts as autocast on CUDA does, where stand-ins for the fused attention
# kernel and MatMul4Bit allocate what these do. (family, 4 bits, checkpointing, loss): GiB.
TRACED = {
    ("bloom-560m", False, False, "full"): 4.855,
    ("bloom-560m", False, True, "full"): 2.976,
    ("bloom-560m", False, False, "chunked"): 3.548,
    ("bloom-560m", False, True, "chunked"): 1.680,
    ("bloom-560m", True, False, "full"): 5.043,
    ("bloom-560m", True, True, "chunked"): 1.680,
    ("llama-3.2-3b", False, False, "full"): 5.569,
    ("llama-3.2-3b", False, True, "full"): 1.644,
    ("llama-3.2-3b", False, False, "chunked"): 4.602,
    ("llama-3.2-3b", True, False, "full"): 4.913,
    ("llama-3.2-3b", True, True, "chunked"): 0.723,
    ("phi-3-mini", False, False, "full"): 9.673,
    ("phi-3-mini", False, True, "full"): 1.133,
    ("phi-3-mini", False, True, "chunked"): 0.807,
    ("phi-3-mini", True, False, "full"): 9.298,
    ("phi-3-mini", True, True, "full"): 1.133,
    ("gemma-2-2b", False, False, "full"): 8.809,
    ("gemma-2-2b", False, True, "full"): 3.546,
    ("gemma-2-2b", False, False, "chunked"): 6.621,
    ("gemma-2-2b", True, False, "full"): 8.466,
    ("gemma-2-2b", True, True, "chunked"): 1.357,
}
SHAPES = {"bloom-560m": (2, 512), "llama-3.2-3b": (1, 1024), "phi-3-mini": (1, 2048), "gemma-2-2b": (1, 1024)}


@pytest.fixture(scope="module")
def at_real_size():
    """Name -> (shadow with adapters, largest matrix), made once."""
    gemma = transformers.Gemma2Config(attn_implementation="eager")  # transformers' default is the 2B model
    made = {}

    def get(name):
        if name not in made:
            with torch.device("meta"):
                base = (
                    transformers.Gemma2ForCausalLM(gemma) if name == "gemma-2-2b" else models.skeleton(name)
                )
            made[name] = shadow_of(base, lora.lora_config(base, r=16), "float16"), largest(base)
        return made[name]

    return get


@pytest.mark.parametrize("case", TRACED, ids=lambda case: "-".join(map(str, case)))
def test_at_real_size(at_real_size, case):
    name, quantised, checkpointing, loss = case
    shadow, biggest = at_real_size(name)
    rows, length = SHAPES[name]
    kept, later = activations.kept(
        shadow, batch_size=rows, length=length, size=2, checkpointing=checkpointing,
        largest=biggest if quantised else 0,
    )
    logits = activations.logits(shadow, tokens=rows * length, size=2, loss=loss)
    assert kept + max(later, logits) == pytest.approx(TRACED[case] * memory.GIB, rel=0.05)


def test_the_logits_of_a_capped_head_keep_its_tanh(tiny_gemma2):
    """Against autograd: between one vocabulary and twice that, the saved tensors grow by log p and tanh."""
    kept = []
    for vocabulary in (400, 800):
        tiny_gemma2.config.vocab_size = vocabulary
        model = transformers.Gemma2ForCausalLM(tiny_gemma2.config).train()
        kept.append(kept_by_autograd(model) + ROWS * LENGTH * vocabulary * 8)
    assert kept[1] - kept[0] == ROWS * LENGTH * 400 * 8
    shadow = shadow_of(tiny_gemma2, None)
    full = activations.logits(shadow, tokens=ROWS * LENGTH, size=4, loss="full")
    assert full == ROWS * LENGTH * 800 * (12 + 4)  # and two gradients


def test_a_chunked_loss_computes_256_tokens_at_a_time(tiny_llama, tiny_gemma2):
    def chunked(model, tokens):
        return activations.logits(shadow_of(model, None), tokens=tokens, size=4, loss="chunked")

    vocabulary = tiny_llama.config.vocab_size
    assert chunked(tiny_llama, 100) == 16 * 100 * vocabulary
    assert chunked(tiny_llama, 5000) == 16 * 256 * vocabulary
    assert chunked(tiny_gemma2, 5000) == 20 * 256 * vocabulary


def test_a_head_that_learns_is_copied_by_the_chunked_loss(tiny_phi3):
    config = lora.lora_config(tiny_phi3, r=4)
    frozen, learning = (
        activations.logits(shadow_of(tiny_phi3, chosen, "float16"), tokens=512, size=2, loss="chunked")
        for chosen in (config, None)
    )
    assert learning - frozen == tiny_phi3.lm_head.weight.numel() * 2
