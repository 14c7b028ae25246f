"""What 4 bits do to a weight, and what they leave to be stored.

A 4-bit weight is a number from 0 to 15: the index of one of 16 levels between -1 and 1. Blocks of 64 weights
share one scale, the largest absolute value among them, so that weight = level x absmax. In nf4 (Dettmers et
al. 2023, QLoRA, arXiv 2305.14314) the levels are quantiles of a normal distribution, as weights of a network
mostly are; in fp4 they are those of a number format. Double quantisation stores the scales in turn in 8 bits,
in blocks of 256.

This module knows which layers transformers turns into 4 bits and what bitsandbytes stores for each; it
quantises no model: that is `models.load`.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn
    from transformers import PreTrainedModel

BLOCK = 64  # weights that share a scale; transformers' BitsAndBytesConfig knows no other size
_NESTED = 256  # scales that share a scale, under double quantisation
_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # what bitsandbytes takes
# Bytes of two fp32 tables and the scales' mean, for each weight.
_LEVELS, _VALUES, _OFFSET = 16 * 4, 256 * 4, 4


def quantisation_error(
    weight: "Tensor", *, blocksize: int = BLOCK, quant_type: str = "nf4"
) -> "pd.DataFrame":
    """How far a weight is from itself after a round trip through 4 bits, and what each number then costs.

    With W the weight and W' the same after bitsandbytes' quantize_4bit and dequantize_4bit:
        relative error   ||W - W'|| / ||W||, in the Frobenius norm
        largest error    max |W - W'|
        bits per weight  8 x stored bytes / number of weights: 4 bits each and the scales, without the tables
                         of levels, which do not grow with the matrix. By hand: 4 + 32/64 = 4.5; with double
                         quantisation 4 + 8/64 + 32/(64 x 256), a little over 4.127.

    Args:
        weight: a floating-point tensor of any shape, not on the meta device; it is copied to the CPU in fp32.
        blocksize: weights that share a scale: 32, 64, 128, 256, 512, 1024, 2048 or 4096.
        quant_type: "nf4" or "fp4".

    Returns:
        a DataFrame with the columns double_quantisation, relative_error, max_error, bits_per_weight and two
        rows: False and True.

    Raises:
        LessonError: for an unknown block size or type, a weight that is empty, not floating-point, without
            numbers (meta device), or has NaN or infinity in it.
    """
    import pandas as pd

    rows = []
    for double in (False, True):
        values, back, stored = round_trip(weight, blocksize=blocksize, quant_type=quant_type, double=double)
        largest = (values - back).abs().max().item()
        rows.append((double, relative_error(values, back), largest, 8 * stored / values.numel()))
    columns = ["double_quantisation", "relative_error", "max_error", "bits_per_weight"]
    return pd.DataFrame(rows, columns=columns)


def round_trip(
    weight: "Tensor", *, blocksize: int = BLOCK, quant_type: str = "nf4", double: bool = False
) -> "tuple[Tensor, Tensor, int]":
    """The weight in fp32, the same after 4 bits, and the bytes that were stored in between.

    Args:
        weight, blocksize, quant_type: as in `quantisation_error`.
        double: whether the scales are quantised too.

    Returns:
        (W, W', bytes of codes and scales); both tensors have the weight's shape and lie on the CPU.

    Raises:
        LessonError: as in `quantisation_error`.
    """
    check_weight(weight, blocksize, quant_type)
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    values = weight.detach().to("cpu").float()
    codes, state = quantize_4bit(
        values.reshape(1, -1), blocksize=blocksize, quant_type=quant_type, compress_statistics=double
    )
    stored = [codes, state.absmax, *((state.state2.absmax, state.offset) if double else ())]
    back = dequantize_4bit(codes, state).reshape(values.shape)
    return values, back, sum(tensor.numel() * tensor.element_size() for tensor in stored)


def relative_error(values: "Tensor", back: "Tensor") -> float:
    """||W - W'|| / ||W|| in the Frobenius norm; 0 for a weight of zeros."""
    norm = values.norm().item()
    return (values - back).norm().item() / norm if norm else 0.0


def levels(quant_type: str = "nf4") -> list[float]:
    """The 16 values between -1 and 1 that 4 bits can name, in rising order; fp4 has 0 twice."""
    _check_type(quant_type)
    from bitsandbytes.functional import get_4bit_type

    return sorted(get_4bit_type(quant_type, device="cpu").tolist())


def quantised_linears(model: "PreTrainedModel", skip: Sequence[str] | None = None) -> "dict[str, nn.Module]":
    """Path -> layer for the linear layers that transformers turns into 4 bits when it loads this model.

    transformers' own rule: every nn.Linear but the output head, whatever is tied to another weight, and the
    module of the last parameter. Embeddings and norms are not linear layers.

    Args:
        model: the unquantised model; the meta device will do.
        skip: `llm_int8_skip_modules` of a BitsAndBytesConfig: these alone are left out, instead of the rule.

    Returns:
        the layers, in the model's order.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = HfQuantizer.get_modules_to_not_convert(
        model, None if skip is None else list(skip), getattr(model, "_keep_in_fp32_modules", None)
    )
    return {
        path: module for path, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(path, kept)
    }


def packed_bytes(weights: Iterable[int]) -> int:
    """Bytes of the codes of weights with these numbers of elements: two to a byte."""
    return sum((elements + 1) // 2 for elements in weights)


def constant_bytes(weights: Iterable[int], *, double: bool = True) -> int:
    """Bytes of what bitsandbytes keeps beside the codes, for weights with these numbers of elements.

    For each weight: one scale for every 64 weights, and a table of its own with the 16 levels in fp32. The
    scales are fp32, or with double quantisation 8 bits; then there are one fp32 scale for every 256 of those,
    one fp32 offset (their mean), and a table of the 256 values that 8 bits stand for, in fp32.
    """
    total = 0
    for elements in weights:
        scales = -(-elements // BLOCK)
        total += _LEVELS + (scales + -(-scales // _NESTED) * 4 + _OFFSET + _VALUES if double else scales * 4)
    return total


def stored_bytes(layers: Iterable[Any]) -> tuple[int, int]:
    """(bytes of the codes, bytes of the constants) that these 4-bit layers of bitsandbytes really hold."""
    codes = constants = 0
    for layer in layers:
        codes += layer.weight.numel() * layer.weight.element_size()
        state = layer.weight.quant_state
        found = [state.absmax, state.code]
        if state.nested:
            found += [state.offset, state.state2.absmax, state.state2.code]
        constants += sum(tensor.numel() * tensor.element_size() for tensor in found)
    return codes, constants


def check_weight(weight: "Tensor", blocksize: int, quant_type: str) -> None:
    """Raise LessonError for what cannot be quantised; see `quantisation_error`."""
    _check_type(quant_type)
    if blocksize not in _BLOCKS:
        known = ", ".join(map(str, _BLOCKS))
        raise LessonError(
            "There is no blocksize={blocksize!r}. bitsandbytes takes: {known}.",
            blocksize=blocksize, known=known,
        )
    if not weight.is_floating_point() or not weight.numel():
        raise LessonError(
            "A tensor of {dtype} with {weight} elements cannot be quantised. Pass a weight matrix of "
            "floating-point numbers; one that is in 4 bits already needs model.dequantize() first.",
            dtype=weight.dtype, weight=weight.numel(),
        )
    if weight.is_meta:
        raise LessonError(
            "This weight is on the meta device: it has a shape and no numbers. Load the model with "
            "models.load.",
        )
    if not weight.isfinite().all():
        raise LessonError(
            "The weight has NaN or infinity in it: the absmax of that block means nothing. Load the model "
            "again.",
        )


def _check_type(quant_type: str) -> None:
    if quant_type not in ("nf4", "fp4"):
        raise LessonError(
            "There is no quant_type={quant_type!r}. Choose 'nf4' or 'fp4'.", quant_type=quant_type,
        )
