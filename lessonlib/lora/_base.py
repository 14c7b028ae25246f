"""What every LoRA layer does, whatever it multiplies: forward, merge, unmerge, and what it refuses.

`lessonlib.lora.layers` has the layers themselves and says what all this is about.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lessonlib.runtime._language import LessonError


class LoraLayer(nn.Module):
    """What the four layers share. Each is a layer of torch as well, and adds `update` and `delta` of its own.

    Attributes:
        weight, bias: the base's own, frozen. While merged, `weight` is W + delta.
        lora_A, lora_B: what is trained. Of W's dtype, but float32 where W has 16 bits: a gradient scaler
            needs that, and steps of a small rate would be rounded away.
        r, lora_alpha, scaling: the rank, alpha, and alpha / r.
        base_weight: W, put aside while merged; None otherwise.
    """

    weight: Tensor
    base_weight: Tensor | None
    plain: type[nn.Module]  # the layer of torch that this one stands for
    settings: tuple[str, ...]  # of that layer, as its constructor and its attributes name them

    @classmethod
    def from_layer(cls, layer: nn.Module, *, r: int, lora_alpha: float, **more: Any) -> Self:
        """LoRA around a layer that exists, with the very same Parameters (shared, not copied), now frozen.

        loralib has only the constructor, which makes a new random W: whoever puts that layer into a model
        that is loaded already has lost the pretrained W.

        Args:
            layer: a plain nn.Linear, nn.Embedding or nn.Conv2d, on any device. It is frozen as well.
            r, lora_alpha, more: as the constructor takes them (lora_dropout; enable_lora of MergedLinear).

        Raises:
            LessonError: for any other kind of layer. A subclass may compute something else (a quantised
                layer's weight is packed, a Gemma embedding scales), and a LoRA layer has its LoRA already.
        """
        cls.check_plain(layer)
        arguments = {name: getattr(layer, name) for name in cls.settings}
        if hasattr(layer, "bias"):
            arguments["bias"] = layer.bias is not None
        # On the meta device a new W takes neither memory nor time nor random numbers.
        made = cls(**arguments, r=r, lora_alpha=lora_alpha, **more, device="meta")
        for name, parameter in layer.named_parameters():
            setattr(made, name, parameter)
        made._start(made.lora_A.shape, made.lora_B.shape)
        return made.train(layer.training)

    @classmethod
    def check_plain(cls, layer: nn.Module) -> None:
        """Refuses what `from_layer` cannot take."""
        if type(layer) is not cls.plain:
            raise LessonError(
                "{name}.from_layer takes an nn.{name2} itself, not a {module}.{name3}. Use peft for "
                "quantised layers and a model's own kinds; leave a layer that has LoRA already as it is.",
                name=cls.__name__, name2=cls.plain.__name__, module=type(layer).__module__,
                name3=type(layer).__name__,
            )

    def _add_lora(
        self, shape_a: Sequence[int], shape_b: Sequence[int], r: int, lora_alpha: float, dropout: float = 0.0
    ) -> None:
        self.r, self.lora_alpha, self.scaling = r, lora_alpha, lora_alpha / r
        self.lora_dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.register_parameter("base_weight", None)
        self._start(shape_a, shape_b)

    def _start(self, shape_a: Sequence[int], shape_b: Sequence[int]) -> None:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        for parameter in self.parameters(recurse=False):
            parameter.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(*shape_a, dtype=dtype, device=self.weight.device))
        self.lora_B = nn.Parameter(torch.empty(*shape_b, dtype=dtype, device=self.weight.device))
        self.reset_lora()

    def reset_lora(self) -> None:
        """A as nn.Linear starts its weight, B zero: delta is zero, and B's gradient is not."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """W x + (alpha / r) B A dropout(x); while merged, `weight` times x alone."""
        y = super().forward(x)
        return y if self.merged else y + self.update(x).to(y.dtype)

    def update(self, x: Tensor) -> Tensor:
        """What LoRA adds to the output, of the output's shape."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """What LoRA adds to the weight, of the weight's shape: update(x) is delta times dropout(x)."""
        raise NotImplementedError

    @property
    def merged(self) -> bool:
        """Whether `weight` is W + delta at the moment."""
        return self.base_weight is not None

    @torch.no_grad()
    def merge(self) -> None:
        """Makes `weight` W + delta, rounded to W's dtype; from then on the layer costs what a plain one does.

        The Parameter W is put aside and not written to. That takes a second W's memory while merged, and in
        return `unmerge` gives back W itself, whereas W + delta - delta has been rounded twice. A layer that
        shares W (a tied output head) keeps W. While merged, A and B take no part and get no gradients.

        Raises:
            LessonError: where it is merged already. (loralib's flag is set by `.eval()`; who adds delta by
                hand after that has it twice.)
        """
        if self.merged:
            raise LessonError(
                "This layer is merged already; a second merge would add LoRA twice. Call unmerge() first.",
            )
        merged = self.weight.to(self.lora_A.dtype) + self.delta()
        self.base_weight = self.weight
        self.weight = nn.Parameter(merged.to(self.weight.dtype), requires_grad=False)

    def unmerge(self) -> None:
        """Puts W back, the very same Parameter, bit for bit.

        Raises:
            LessonError: where nothing is merged.
        """
        if self.base_weight is None:
            raise LessonError(
                "This layer is not merged, so there is nothing to unmerge. Print it to see merged=...",
            )
        self.weight = self.base_weight
        self.base_weight = None

    # torch calls these two for each layer when a model above it saves or loads.

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._refuse_merged(prefix)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self._refuse_merged(prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _refuse_merged(self, prefix: str) -> None:
        """Refuses to save W + delta as if it were W, or to load over it."""
        if self.merged:
            raise LessonError(
                "The LoRA layer {where!r} is merged: its weight is W + delta now, so a state dict saved or "
                "loaded at this point would count LoRA twice, or lose it. Call unmerge() on every layer "
                "first.",
                where=prefix.rstrip(".") or "model",
            )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r={self.r}, lora_alpha={self.lora_alpha}, merged={self.merged}"


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Path -> LoRA layer, for all those of a model ("" for the model itself).

    Raises:
        LessonError: where there are none.
    """
    # A layer that a model uses twice is saved under both of its paths.
    modules = model.named_modules(remove_duplicate=False)
    found = {path: module for path, module in modules if isinstance(module, LoraLayer)}
    if not found:
        raise LessonError(
            "There are no LoRA layers in {name}. Call layers.replace(model, ...) first; for a peft model, "
            "use peft's own functions.",
            name=type(model).__name__,
        )
    return found
