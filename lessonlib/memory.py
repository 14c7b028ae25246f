"""What a training run will need of a GPU's memory, from the model's architecture alone, before any download.

Weights, adapters, gradients and optimiser states are counted to the byte. Activations and logits are
estimates whose formulas stand in `plan`. This module does not know the allocator's rounding, the CUDA
context, or quantised weights; `verdict` keeps a reserve for the first two.
"""

import copy
from typing import TYPE_CHECKING, Any

from lessonlib.language import LessonError, text
from lessonlib.lora import block_linears, features, has_lora

if TYPE_CHECKING:
    import pandas as pd
    from peft import LoraConfig
    from transformers import PreTrainedModel

GIB = 2**30
RESERVE_GIB = 1.0  # CUDA context, cuBLAS workspaces, fragmentation: a round figure, not a measurement
CHUNK = 256  # tokens whose logits trl 1.14.2's "chunked_nll" computes at a time
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def plan(
    model: "PreTrainedModel",
    *,
    lora: "LoraConfig | None" = None,
    batch_size: int,
    length: int,
    dtype: str = "float16",
    checkpointing: bool = False,
    loss: str = "full",
) -> "pd.DataFrame":
    """The memory of one training step, part by part.

    Exact parts (trainable parameters are fp32, which mixed precision with a gradient scaler needs):
        weights      frozen parameters x size of dtype, or in full fine-tuning 4 bytes each; a tied matrix
                     is counted once; and the buffers
        adapters     LoRA parameters x 4
        gradients    trainable parameters x 4
        optimiser    trainable parameters x 8 (AdamW keeps two fp32 numbers for each)

    Estimated parts, with T = batch_size x length tokens, e = size of dtype, h = hidden size, V = vocabulary.

    Activations are what the forward pass keeps for the backward pass, after Korthikanti et al. 2022,
    "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198, section 4), whose count
    for one block of a GPT in 16 bits is T (34 h + 5 heads length) bytes. Adapted here to frozen weights,
    which keep nothing (a linear layer's input is needed only for its own gradient). A block keeps
        T x 4 x 2 h                   the inputs of the two norms, in fp32
        T x e x outputs               of all linear layers but the two that go back into the stream
        T x e x MLP width             in gated MLPs (Llama, Phi-3, Gemma): the gate after its nonlinearity
        T x heads x length x (e + 4)  under eager attention: the softmax in fp32 and its copy in dtype
                                      (x 4 where both are fp32)
        T x e x inputs                of the linear layers that learn, and of LoRA's B
    and, where dtype has 2 bytes, there is a copy in dtype of each trainable matrix. With checkpointing
    (Chen et al. 2016, arXiv 1604.06174) each block keeps its input alone, and one block at a time is computed
    again in full.

    Logits, loss="full": 12 T V. ForCausalLMLoss of transformers 5.17 casts the logits to fp32 and calls
    cross_entropy, which keeps the log-probabilities; when the backward pass starts, these, their gradient and
    the logits' gradient are alive, 4 bytes each. (Whoever holds on to `outputs` adds e T V.)
    Logits, loss="chunked": c = min(T, 256) tokens at a time, 20 c V, and in 2 bytes a copy of the head,
    2 h V; or 6 h V + 2 c V, if more, where a LayerNorm hands the head fp32 (BLOOM). For short batches this is
    the larger of the two losses.

    The sum is on the safe side: gradients grow while activations go.

    Args:
        model: the base model without adapters, loaded or on the meta device; it is not changed.
        lora: the adapters to be trained, or None for full fine-tuning.
        batch_size: rows in one forward pass (not times accumulation).
        length: tokens in a row, padding included.
        dtype: "float32", "float16" or "bfloat16": of the frozen weights, and what is computed in (autocast).
        checkpointing: gradient checkpointing on every block.
        loss: "full" (transformers' own) or "chunked" (trl's default, loss_type="chunked_nll").

    Returns:
        a DataFrame with the rows weights, adapters, gradients, optimiser, activations, logits, total and the
        columns part, bytes, gib, exact (counted rather than estimated).

    Raises:
        LessonError: for a model with adapters, a quantised one, numbers below 1, an unknown dtype or loss.
    """
    import pandas as pd

    _check(model, batch_size, length, dtype, loss)
    shadow = _shadow(model, lora)
    trainable = sum(parameter.numel() for parameter in shadow.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in shadow.parameters() if not parameter.requires_grad)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in shadow.buffers())
    parts = {
        "weights": frozen * BYTES[dtype] + buffers + (0 if lora else trainable * 4),
        "adapters": trainable * 4 if lora else 0,
        "gradients": trainable * 4,
        "optimiser": trainable * 8,
        "activations": _activations(shadow, batch_size, length, BYTES[dtype], checkpointing),
        "logits": _logits(shadow, batch_size * length, BYTES[dtype], loss),
    }
    parts["total"] = sum(parts.values())
    table = pd.DataFrame({"part": list(parts), "bytes": list(parts.values())})
    estimates = ["activations", "logits", "total"]
    return table.assign(gib=table["bytes"] / GIB, exact=~table["part"].isin(estimates))


def fits(plan: "pd.DataFrame", gib: float) -> bool:
    """Whether the plan's total and 1 GiB in reserve (CUDA context, fragmentation) fit a card of `gib` GiB."""
    return bool(_total(plan) + RESERVE_GIB <= gib)


def verdict(plan: "pd.DataFrame", gib: float) -> str:
    """Says in words whether it fits, how much is left or missing, and where it does not, what to change.

    Args:
        plan: from `plan`.
        gib: the card's memory in GiB; a T4 in Colab has 14.7.

    Returns:
        one or two sentences in the current language.
    """
    total = _total(plan)
    left = gib - total - RESERVE_GIB
    vi = f"Cần khoảng {total:.2f} GiB cộng {RESERVE_GIB:.0f} GiB dự phòng, trên card {gib:.1f} GiB"
    en = f"It needs about {total:.2f} GiB and {RESERVE_GIB:.0f} GiB in reserve, of the card's {gib:.1f} GiB"
    if fits(plan, gib):
        return text(vi=f"Vừa. {vi}: còn {left:.2f} GiB.", en=f"It fits. {en}: {left:.2f} GiB are left.")
    parts = plan[plan["part"] != "total"]
    largest = parts.loc[parts["bytes"].idxmax(), "part"]
    less = text(vi="LoRA thay cho full fine-tuning", en="LoRA instead of full fine-tuning")
    cure = {
        "weights": text(vi="mô hình nhỏ hơn hoặc trọng số 16 bit", en="a smaller model or 16-bit weights"),
        "adapters": text(vi="rank nhỏ hơn", en="a smaller rank"),
        "gradients": less,
        "optimiser": less,
        "activations": text(
            vi="gradient checkpointing hoặc batch nhỏ hơn", en="gradient checkpointing or a smaller batch"
        ),
        "logits": text(vi="batch nhỏ hơn hoặc dòng ngắn hơn", en="a smaller batch or shorter rows"),
    }[largest]
    return text(
        vi=f"Không vừa. {vi}: thiếu {-left:.2f} GiB. Phần lớn nhất là {largest}: hãy thử {cure}.",
        en=f"It does not fit. {en}: {-left:.2f} GiB are missing. The largest part is {largest}: try {cure}.",
    )


def _total(plan: "pd.DataFrame") -> float:
    return float(plan.loc[plan["part"] == "total", "gib"].item())


def _check(model: "PreTrainedModel", batch_size: int, length: int, dtype: str, loss: str) -> None:
    if any(map(has_lora, model.modules())):
        raise LessonError(
            vi="Mô hình này đã có adapter. Hãy truyền vào mô hình gốc và LoraConfig: plan(model, "
            "lora=config, ...).",
            en="This model has adapters already. Pass the base model and the LoraConfig: plan(model, "
            "lora=config, ...).",
        )
    if getattr(model.config, "quantization_config", None) is not None:
        raise LessonError(
            vi="plan chưa tính được trọng số đã lượng tử hóa. Hãy truyền vào mô hình 16 hoặc 32 bit.",
            en="plan does not count quantised weights. Pass the model in 16 or 32 bits.",
        )
    if batch_size < 1 or length < 1:
        raise LessonError(
            vi=f"batch_size={batch_size} và length={length} phải từ 1 trở lên.",
            en=f"batch_size={batch_size} and length={length} have to be 1 or more.",
        )
    for name, given, known in (("dtype", dtype, tuple(BYTES)), ("loss", loss, ("full", "chunked"))):
        if given not in known:
            choices = ", ".join(known)
            raise LessonError(
                vi=f"Không có {name}={given!r}. Hãy chọn một trong: {choices}.",
                en=f"There is no {name}={given!r}. Choose one of: {choices}.",
            )


def _shadow(model: "PreTrainedModel", lora: "LoraConfig | None") -> Any:
    """The same architecture on the meta device (shapes, no numbers), with the adapters on it."""
    import torch

    # peft draws the adapters' first values before it moves them: the learner's seed is to stay as it was.
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            shadow = type(model)(copy.deepcopy(model.config))
        if lora is None:
            return shadow
        from peft import get_peft_model

        config = copy.deepcopy(lora)
        config.base_model_name_or_path = None  # peft warns where a config was used on another model before
        return get_peft_model(shadow, config)


def _activations(shadow: Any, batch_size: int, length: int, size: int, checkpointing: bool) -> int:
    """Bytes that the blocks keep for the backward pass, by the formula in `plan`."""
    from torch import nn

    config = shadow.config.get_text_config()
    hidden, blocks = config.hidden_size, config.num_hidden_layers
    linears = block_linears(shadow)
    outputs = -2 * hidden * blocks
    gates = config.intermediate_size * blocks if any("gate" in path for path in linears) else 0
    learning = 0
    for linear in linears.values():
        base = linear.get_base_layer() if has_lora(linear) else linear
        inputs, made = features(base)
        outputs += made
        if has_lora(linear):
            learning += inputs + sum(linear.r.values())
        elif base.weight.requires_grad:
            learning += inputs
    per_token = 4 * 2 * hidden * blocks + size * (outputs + gates + learning)
    if config._attn_implementation == "eager":
        per_token += config.num_attention_heads * length * blocks * (4 if size == 4 else size + 4)
    kept = batch_size * length * per_token
    if checkpointing:
        stream = 4 if _has_layer_norm(shadow) else size
        kept = batch_size * length * hidden * stream * blocks + kept // blocks
    if size == 2:
        matrices = {module.weight for module in shadow.modules() if isinstance(module, nn.Linear)}
        kept += size * sum(matrix.numel() for matrix in matrices if matrix.requires_grad)
    return kept


def _logits(shadow: Any, tokens: int, size: int, loss: str) -> int:
    """Bytes around the output head at their highest, by the formula in `plan`."""
    config = shadow.config.get_text_config()
    hidden, vocabulary = config.hidden_size, config.vocab_size
    if loss == "full":
        return 12 * tokens * vocabulary
    chunk = min(tokens, CHUNK)
    if size == 4:
        return 20 * chunk * vocabulary
    computing = 2 * hidden * vocabulary + 20 * chunk * vocabulary
    projecting = 6 * hidden * vocabulary + 2 * chunk * vocabulary if _has_layer_norm(shadow) else 0
    return max(computing, projecting)


def _has_layer_norm(shadow: Any) -> bool:
    """Autocast runs nn.LayerNorm in fp32 and leaves its output so; an RMSNorm casts its own back."""
    from torch import nn

    return any(isinstance(module, nn.LayerNorm) for module in shadow.modules())
