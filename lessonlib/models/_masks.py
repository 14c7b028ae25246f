"""Attention masks that float16 can bear: without them, padding on the left turns real answers into NaN.

With eager attention transformers adds `finfo(dtype).min` to the score of each key that a query may not see.
In float16 that is -65504, and a score of -16 or less on top rounds to -inf. A padding query on the left sees
no key at all: where a head gives it such scores only, its softmax is NaN, and the next layer carries that to
every real token (0 x NaN is NaN). Half the minimum still leaves a masked key nothing, as exp(-32752) is 0
next to any score, and stays finite. Found in BLOOM-560m on a Turing card; float32 and bfloat16 have room.

sdpa needs no guard: since torch 2.5 a query that sees no key gets zeros from it (pytorch#131060, #133882).
"""

from typing import Any


def keep_masks_finite() -> None:
    """From now on every model of this process gets eager masks that stay finite in float16.

    It goes through transformers' own register of mask functions, so it reaches the learner's `model.generate`
    as well, models loaded without lessonlib, and Gemma-2's sliding windows. Masks of other number formats,
    and so all numbers of a rehearsal, are as before. A second call changes nothing.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    ALL_MASK_ATTENTION_FUNCTIONS.register("eager", _finite_eager_mask)


def _finite_eager_mask(*args: Any, **kwargs: Any) -> Any:
    """transformers' `eager_mask`, in float16 with half the minimum: (batch, 1, queries, keys)."""
    import torch
    from transformers.masking_utils import eager_mask

    mask = eager_mask(*args, **kwargs)
    if mask is not None and mask.dtype == torch.float16:
        mask.clamp_(min=torch.finfo(torch.float16).min / 2)
    return mask
