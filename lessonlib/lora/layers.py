"""LoRA written out by hand, to read beside loralib and peft: the layers, and how they get into a model.

LoRA (Hu et al. 2021, arXiv 2106.09685) leaves W (out, in) frozen and trains A (r, in) and B (out, r):

    y = W x + (alpha / r) B A dropout(x)          delta = (alpha / r) B A, of W's shape

B starts at zero, so that training starts from the model as it was. Names, shapes and initial values are those
of loralib 0.1.2 (Linear, Embedding, Conv2d, MergedLinear), whose results these layers give. They part from it
where loralib lets a mistake through without a word:

- `.eval()` and `.train()` never touch a weight. There, `.eval()` adds delta to W, and a state dict saved then
  holds W + delta beside A and B: loaded again, LoRA counts twice. Here only `merge()` and `unmerge()` do it,
  `merged` shows in the repr, a second merge is refused, and so is saving or loading while merged.
- `load_state_dict(strict=False)` passes over every name that does not fit, and puts an adapter onto any base.
  `load` names what does not fit, and knows again which base an adapter was trained on.
- A new `Linear` has a random W. `from_layer` and `replace` keep the weights of a model that is loaded.

Of the parts, `base` has what the layers share and `saving` has `lora_state_dict` and `load`. Nothing here
knows how to train; after this, lessons use peft (`lessonlib.lora.lora_config`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessonlib.lora._base import LoraLayer, lora_layers
from lessonlib.lora._config import block_linears, check_numbers, is_target, target_names
from lessonlib.lora._saving import check_bias, is_bias, load, lora_state_dict
from lessonlib.runtime._language import LessonError

__all__ = [
    "Conv2d", "Embedding", "Linear", "LoraLayer", "MergedLinear", "load", "lora_layers", "lora_state_dict",
    "mark_only_lora_as_trainable", "replace",
]  # fmt: skip


class Linear(LoraLayer, nn.Linear):
    """nn.Linear with LoRA.

    Args:
        in_features, out_features: as nn.Linear.
        r: the rank, at least 1.
        lora_alpha: the numerator of the scale alpha / r. It has no default: loralib's is 1, which at r 16
            multiplies the update by 0.0625, where the usual alpha = 2 r gives 2. The factor of 32 between
            them acts like a much lower learning rate, and nothing says so.
        lora_dropout: the share of x that is zeroed on the way into A while training.
        more: bias, device, dtype, as nn.Linear.

    Raises:
        LessonError: for numbers out of range.
    """

    plain = nn.Linear
    settings = ("in_features", "out_features")

    def __init__(
        self, in_features: int, out_features: int, r: int, lora_alpha: float, lora_dropout: float = 0.0,
        **more: Any,
    ) -> None:  # fmt: skip
        check_numbers(r, lora_alpha, lora_dropout)
        super().__init__(in_features, out_features, **more)
        self._add_lora((r, in_features), (out_features, r), r, lora_alpha, lora_dropout)

    def update(self, x: Tensor) -> Tensor:
        x = self.lora_dropout(x).to(self.lora_A.dtype)
        narrow = F.linear(x, self.lora_A) * self.scaling  # (..., in) -> (..., r), where scaling is cheap
        return F.linear(narrow, self.lora_B)  # (..., r) -> (..., out)

    def delta(self) -> Tensor:
        return self.lora_B @ self.lora_A * self.scaling


class MergedLinear(LoraLayer, nn.Linear):
    """A fused nn.Linear (one weight for query, key and value) with LoRA in some of its parts.

    The output is cut into len(enable_lora) equal groups, one after the other; each enabled group has an A and
    a B of its own, A (r * enabled, in) and B (enabled * out / groups, r) holding them one below the other.
    Linear on the same weight would share one A among all groups.

    That is the layout of GPT-2's c_attn, and of Phi-3's qkv_proj where there are as many key-value heads as
    heads (Phi-3-mini; not medium). BLOOM's query_key_value alternates head by head, so there a group is a
    third of the heads and not the queries: use Linear.

    Args:
        in_features, out_features, r, lora_alpha, lora_dropout, more: as Linear.
        enable_lora: for each group whether it has LoRA; [True, False, True] is query and value.

    Raises:
        LessonError: for groups that do not divide out_features, or none enabled, and numbers out of range.
    """

    plain = nn.Linear
    settings = ("in_features", "out_features")

    def __init__(
        self, in_features: int, out_features: int, r: int, lora_alpha: float, lora_dropout: float = 0.0,
        *, enable_lora: Sequence[bool], **more: Any,
    ) -> None:  # fmt: skip
        check_numbers(r, lora_alpha, lora_dropout)
        groups, enabled = len(enable_lora), sum(map(bool, enable_lora))
        if not enabled or out_features % groups:
            raise LessonError(
                "enable_lora={enable_lora} will not do: at least one must be True, and the number of groups "
                "must divide out_features={out_features}.",
                enable_lora=list(enable_lora), out_features=out_features,
            )
        super().__init__(in_features, out_features, **more)
        self.enable_lora = [bool(on) for on in enable_lora]
        size = out_features // groups
        self._add_lora((r * enabled, in_features), (size * enabled, r), r, lora_alpha, lora_dropout)

    def _pairs(self) -> list[tuple[Tensor, Tensor] | None]:
        """A (r, in) and B (out / groups, r) of each group; None where a group has no LoRA."""
        size = self.out_features // len(self.enable_lora)
        pairs = zip(self.lora_A.split(self.r), self.lora_B.split(size), strict=True)
        return [next(pairs) if on else None for on in self.enable_lora]

    def update(self, x: Tensor) -> Tensor:
        x = self.lora_dropout(x).to(self.lora_A.dtype)
        nothing = x.new_zeros(*x.shape[:-1], self.out_features // len(self.enable_lora))
        parts = [
            F.linear(F.linear(x, pair[0]) * self.scaling, pair[1]) if pair else nothing
            for pair in self._pairs()
        ]
        return torch.cat(parts, dim=-1)  # groups of (..., out / groups) -> (..., out)

    def delta(self) -> Tensor:
        nothing = self.lora_A.new_zeros(self.out_features // len(self.enable_lora), self.in_features)
        parts = [pair[1] @ pair[0] * self.scaling if pair else nothing for pair in self._pairs()]
        return torch.cat(parts)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, enable_lora={self.enable_lora}"


class Embedding(LoraLayer, nn.Embedding):
    """nn.Embedding with LoRA: A (r, num_embeddings), B (embedding_dim, r). Row i is W_i + (alpha / r) B A_i.

    Here A starts at zero and B at random, as in loralib and peft. There is no dropout: x is a table's index.

    Args:
        num_embeddings, embedding_dim: as nn.Embedding.
        r, lora_alpha: as Linear.
        more: padding_idx (its row of A never gets a gradient), device, dtype and others, as nn.Embedding.

    Raises:
        LessonError: for numbers out of range, and for max_norm, with which a look-up writes into W.
    """

    plain = nn.Embedding
    settings = ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "scale_grad_by_freq")

    def __init__(
        self, num_embeddings: int, embedding_dim: int, r: int, lora_alpha: float, **more: Any
    ) -> None:
        check_numbers(r, lora_alpha, 0.0)
        if more.get("max_norm") is not None:
            raise LessonError(
                "With max_norm={more} every look-up writes into W, so W is not frozen. Use an embedding "
                "without max_norm.",
                more=more["max_norm"],
            )
        super().__init__(num_embeddings, embedding_dim, **more)
        self._add_lora((r, num_embeddings), (embedding_dim, r), r, lora_alpha)

    def reset_lora(self) -> None:
        """A zero, B normal."""
        nn.init.zeros_(self.lora_A)
        nn.init.normal_(self.lora_B)

    def update(self, x: Tensor) -> Tensor:
        narrow = F.embedding(
            x, self.lora_A.T, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq
        )  # (...) -> (..., r)
        return F.linear(narrow * self.scaling, self.lora_B)  # (..., r) -> (..., embedding_dim)

    def delta(self) -> Tensor:
        return (self.lora_B @ self.lora_A).T * self.scaling


class Conv2d(LoraLayer, nn.Conv2d):
    """nn.Conv2d with LoRA, in loralib's shapes: kernel k x k, A (r k, in k), B (out k / groups, r k).

    B A has as many numbers as W and is read as W's shape (out, in / groups, k, k), so that its rank as an
    (out, in k k) matrix can exceed r. peft's Conv2d is another one: there A is a convolution to r channels
    and B one of 1 x 1, of rank r. Where k is 1 the two are the same.

    Args:
        in_channels, out_channels, kernel_size: as nn.Conv2d, with a square kernel.
        r, lora_alpha, lora_dropout: as Linear. (loralib takes a dropout here and does not apply it.)
        more: stride, padding, groups, bias, device, dtype and others, as nn.Conv2d.

    Raises:
        LessonError: for numbers out of range and a kernel that is not square.
    """

    plain = nn.Conv2d
    settings = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
        "padding_mode",
    )  # fmt: skip

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], r: int,
        lora_alpha: float, lora_dropout: float = 0.0, **more: Any,
    ) -> None:  # fmt: skip
        check_numbers(r, lora_alpha, lora_dropout)
        super().__init__(in_channels, out_channels, kernel_size, **more)
        k, wide = self.kernel_size
        if k != wide:
            raise LessonError(
                "kernel_size={kernel_size} is not square, and this Conv2d, like loralib's, takes square "
                "kernels only. Use peft for this layer.",
                kernel_size=self.kernel_size,
            )
        shape_b = (out_channels // self.groups * k, r * k)
        self._add_lora((r * k, in_channels * k), shape_b, r, lora_alpha, lora_dropout)

    def update(self, x: Tensor) -> Tensor:
        # torch's own step behind nn.Conv2d.forward, which knows the padding mode; no bias here.
        return self._conv_forward(self.lora_dropout(x).to(self.lora_A.dtype), self.delta(), None)

    def delta(self) -> Tensor:
        return (self.lora_B @ self.lora_A).view(self.weight.shape) * self.scaling


def replace(
    model: nn.Module, names: str | Sequence[str], *, r: int, lora_alpha: float, lora_dropout: float = 0.0
) -> list[str]:
    """Puts a LoRA layer in the place of linear layers in a model's decoder blocks, and keeps their weights.

    Nothing else is frozen: see `mark_only_lora_as_trainable`.

    Args:
        model: any decoder of transformers, changed in place.
        names: the ends of the layers' paths, such as ["qkv_proj", "o_proj"], or "all" for every linear layer
            in the blocks, by the rules of `lora_config`. Other layers than these are put in by hand, with
            `from_layer`.
        r, lora_alpha, lora_dropout: as Linear takes them.

    Returns:
        the paths of the layers that were replaced, in the model's order.

    Raises:
        LessonError: for a name that matches nothing (with close matches), an empty list, a layer that is no
            plain nn.Linear, numbers out of range. The model is then as it was.
    """
    linears = block_linears(model)
    wanted = target_names(names, list(linears), "names")
    paths = [path for path in linears if any(is_target(path, name) for name in wanted)]
    for path in paths:  # all of them before the first is frozen
        Linear.check_plain(linears[path])
    made = {
        path: Linear.from_layer(linears[path], r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout)
        for path in paths
    }
    for path, layer in made.items():
        model.set_submodule(path, layer)
    return paths


def mark_only_lora_as_trainable(model: nn.Module, bias: str = "none") -> None:
    """Freezes every parameter but A and B of the LoRA layers, and the biases where told to.

    Args:
        model: a model with LoRA layers, changed in place.
        bias: "none", "lora_only" for those of LoRA layers, "all" for those of every layer.

    Raises:
        LessonError: for a model without LoRA layers (all of it would be frozen) and another `bias`.
    """
    layers = lora_layers(model)
    check_bias(bias)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bias == "all" and is_bias(name))
    for layer in layers.values():
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)
        own = getattr(layer, "bias", None)
        if bias == "lora_only" and own is not None:
            own.requires_grad_(True)
