"""What a training run will need of a GPU's memory, from the model's architecture alone, before any download.

Weights, quantisation constants, adapters, gradients and optimiser states are counted to the byte. Activations
and logits are estimates, by the formulas in `_activations`. This module does not know the CUDA
context or the allocator's rounding; `verdict` keeps a reserve for them.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lessonlib.lora._config import empty_copy, has_lora, with_adapters
from lessonlib.models._quantisation import constant_bytes, packed_bytes, quantised_linears, stored_bytes
from lessonlib.runtime._language import LessonError, Translated, tr
from lessonlib.training import _activations as activations

if TYPE_CHECKING:
    import pandas as pd
    from peft import LoraConfig
    from transformers import PreTrainedModel

GIB = 2**30
RESERVE_GIB = 1.0  # CUDA context, cuBLAS workspaces, fragmentation: a round figure, not a measurement
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
QUANTISATIONS = ("none", "nf4")
# Names of transformers' TrainingArguments -> bits of a state.
_OPTIMISERS = {
    "adamw_torch": 32,
    "adamw_torch_fused": 32,
    "paged_adamw_32bit": 32,
    "adamw_8bit": 8,
    "paged_adamw_8bit": 8,
}
_CURES = {  # for each part what makes it smaller
    "weights": Translated("quantisation='nf4', a smaller model or 16-bit weights"),
    "constants": Translated("a smaller model"),
    "adapters": Translated("a smaller rank"),
    "gradients": Translated("LoRA instead of full fine-tuning"),
    "optimiser": Translated("LoRA instead of full fine-tuning"),
    "activations": Translated("gradient checkpointing or a smaller batch"),
    "logits": Translated("a smaller batch or shorter rows"),
}
_SMALLEST_8BIT = 4096  # bitsandbytes keeps the states of smaller tensors in fp32
_STATE_BLOCK = 256  # 8-bit states that share a scale
_STATE_TABLES = 2 * 256 * 4  # what 8 bits stand for: one fp32 table for signed states, one for the others


def plan(
    model: "PreTrainedModel",
    *,
    lora: "LoraConfig | None" = None,
    batch_size: int,
    length: int,
    dtype: str = "float16",
    checkpointing: bool = False,
    loss: str = "full",
    quantisation: str = "none",
    optim: str = "adamw_torch",
) -> "pd.DataFrame":
    """The memory of one training step, part by part.

    Exact parts (trainable parameters are fp32, which mixed precision with a gradient scaler needs):
        weights      frozen parameters x size of dtype, or in full fine-tuning 4 bytes each; a tied matrix
                     is counted once; and the buffers. In nf4, half a byte for each weight of the linear
                     layers that transformers quantises (`_quantisation.quantised_linears`: neither the output
                     head nor the embeddings); the others stay in dtype, and would take 4 bytes each after
                     peft's prepare_model_for_kbit_training.
        constants    the scales and tables of the 4-bit weights (`_quantisation.constant_bytes`): about 0.127
                     bits for each weight with double quantisation
        adapters     LoRA parameters x 4
        gradients    trainable parameters x 4
        optimiser    trainable parameters x 8: AdamW keeps two fp32 numbers for each. In 8 bits 2 bytes for
                     each, two fp32 scales for every 256, and 2048 bytes of tables once; but 8 for each number
                     in tensors of fewer than 4096 and in nn.Embedding, which transformers' Trainer exempts.
                     Paged states count too: they lie in CUDA's unified memory (tensors from 100,000 numbers
                     on), which moves to the host's memory only when the card is full, and which
                     torch.cuda.max_memory_allocated does not see.

    Estimated parts, at the fullest moment:
        activations  by the formula in `_activations`. What the block at work needs on top comes only once
                     the logits are gone, so it counts as far as it is more than they are
        logits       by the formula in `_activations.logits`
    The sum is on the safe side: in the first of the accumulated batches, gradients grow while activations go.

    Args:
        model: the base model without adapters, loaded or on the meta device; it is not changed. One that was
            loaded in 4 bits is recognised by its config, and its 4-bit weights are counted as they are.
        lora: the adapters to be trained, or None for full fine-tuning.
        batch_size: rows in one forward pass (not times accumulation).
        length: tokens in a row, padding included.
        dtype: "float32", "float16" or "bfloat16": of the frozen weights, and what is computed in (autocast).
        checkpointing: gradient checkpointing on every block.
        loss: "full" (transformers' own) or "chunked" (trl's default, loss_type="chunked_nll").
        quantisation: "nf4" to plan an unquantised model as `models.load` would load it in 4 bits: nf4 with
            double quantisation. Without effect on a model that is in 4 bits already.
        optim: "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit" or "paged_adamw_32bit",
            as in transformers' TrainingArguments.

    Returns:
        a DataFrame with the rows weights, constants, adapters, gradients, optimiser, activations, logits,
        total and the columns part, bytes, gib, exact (counted rather than estimated).

    Raises:
        LessonError: for a model with adapters, one quantised in any other way than 4 bits of bitsandbytes,
            full fine-tuning of 4-bit weights, numbers below 1, an unknown dtype, loss, quantisation or
            optimiser.
    """
    import pandas as pd
    from torch import nn

    _check(
        model, batch_size, length, dtype=(dtype, _BYTES), loss=(loss, ("full", "chunked")),
        quantisation=(quantisation, QUANTISATIONS), optim=(optim, _OPTIMISERS),
    )  # fmt: skip
    settings = _settings_4bit(model)
    in_4bit = settings is not None or quantisation == "nf4"
    if in_4bit and lora is None:
        raise LessonError(
            "Weights in 4 bits cannot be trained themselves (full fine-tuning). Pass lora=..., or use a "
            "model that is not quantised.",
        )
    size = _BYTES[dtype]
    base = empty_copy(model, dtype if lora else "float32")
    packed, constants, elements = _count_4bit(model, base, settings or {}) if in_4bit else (0, 0, [0])
    shadow = with_adapters(base, lora) if lora else base
    trained = [parameter for parameter in shadow.parameters() if parameter.requires_grad]
    embedded = {module.weight for module in shadow.modules() if isinstance(module, nn.Embedding)}
    trainable = sum(parameter.numel() for parameter in trained)
    frozen = sum(parameter.numel() for parameter in shadow.parameters()) - trainable - sum(elements)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in shadow.buffers())
    kept, later = activations.kept(
        shadow, batch_size=batch_size, length=length, size=size, checkpointing=checkpointing,
        largest=max(elements, default=0),
    )
    logits = activations.logits(shadow, tokens=batch_size * length, size=size, loss=loss)
    parts = {
        "weights": frozen * size + packed + buffers + (0 if lora else trainable * 4),
        "constants": constants,
        "adapters": trainable * 4 if lora else 0,
        "gradients": trainable * 4,
        "optimiser": _optimiser(trained, embedded, _OPTIMISERS[optim]),
        "activations": kept + max(0, later - logits),
        "logits": logits,
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
    need = Translated(
        "{total:.2f} GiB and {reserve:.0f} GiB in reserve, of the card's {gib:.1f} GiB",
        total=total, reserve=RESERVE_GIB, gib=gib,
    )
    if fits(plan, gib):
        return tr("It fits. It needs about {need}: {left:.2f} GiB are left.", need=need, left=left)
    parts = plan[plan["part"] != "total"]
    largest = parts.loc[parts["bytes"].idxmax(), "part"]
    return tr(
        "It does not fit. It needs about {need}: {lacking:.2f} GiB are missing. The largest part is "
        "{largest}: try {cure}.",
        need=need, lacking=-left, largest=largest, cure=_CURES[largest],
    )


def _total(plan: "pd.DataFrame") -> float:
    return float(plan.loc[plan["part"] == "total", "gib"].item())


def _check(
    model: "PreTrainedModel", batch_size: int, length: int, **choices: tuple[str, Iterable[str]]
) -> None:
    if any(map(has_lora, model.modules())):
        raise LessonError(
            "This model has adapters already. Pass the base model and the LoraConfig: "
            "training.memory_plan(model, lora=config, ...).",
        )
    if batch_size < 1 or length < 1:
        raise LessonError(
            "batch_size={batch_size} and length={length} have to be 1 or more.",
            batch_size=batch_size, length=length,
        )
    for name, (given, known) in choices.items():
        if given not in known:
            there = ", ".join(known)
            raise LessonError(
                "There is no {name}={given!r}. Choose one of: {there}.", name=name, given=given, there=there,
            )


def _settings_4bit(model: "PreTrainedModel") -> dict[str, Any] | None:
    """The settings of a model that says it is in 4 bits; None for one that is not quantised."""
    settings: Any = getattr(model.config, "quantization_config", None)
    if settings is None:
        return None
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    if not settings.get("load_in_4bit"):
        kind = Translated("8 bits") if settings.get("load_in_8bit") else settings.get("quant_method")
        raise LessonError(
            "plan does not count a model quantised in {kind}. Load it in 4 bits (nf4), in 16 or in 32.",
            kind=kind,
        )
    return settings


def _count_4bit(
    model: "PreTrainedModel", base: "PreTrainedModel", settings: Mapping[str, Any]
) -> tuple[int, int, list[int]]:
    """(bytes of the 4-bit codes, bytes of the constants, numbers in each 4-bit matrix)."""
    loaded = {
        path: module for path, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "quant_state", None) is not None
    }
    skip = settings.get("llm_int8_skip_modules")
    chosen: Any = [base.get_submodule(path) for path in loaded] or quantised_linears(base, skip).values()
    elements = [layer.weight.numel() for layer in chosen]
    if loaded:
        return *stored_bytes(loaded.values()), elements
    double = settings.get("bnb_4bit_use_double_quant", True)
    return packed_bytes(elements), constant_bytes(elements, double=double), elements


def _optimiser(trained: Iterable[Any], embedded: set[Any], bits: int) -> int:
    """Bytes of AdamW's two states, by the formula in `plan`; `embedded` are the weights of nn.Embedding."""
    total = tables = 0
    for parameter in trained:
        elements = parameter.numel()
        if bits == 32 or elements < _SMALLEST_8BIT or parameter in embedded:
            total += 8 * elements
        else:
            total += 2 * elements + 2 * 4 * -(-elements // _STATE_BLOCK)
            tables = _STATE_TABLES
    return total + tables
