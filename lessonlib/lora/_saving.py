"""A LoRA-only state dict that knows which base it belongs to, and a `load` that says what does not fit.

With loralib a model is put together by two calls of `load_state_dict(strict=False)`, first the base, then the
adapter. `strict=False` is needed, since each file holds a part of the model only; but it also says nothing
when a name is misspelt, when a layer is missing, or when A and B go onto another base than they were trained
on. `load` does both steps after comparing every name, every shape and every base weight.
"""

import warnings
from collections.abc import Mapping, Set

import torch
from torch import Tensor, nn

from lessonlib.lora._base import LoraLayer, lora_layers
from lessonlib.runtime._language import LessonError, Translated, joined, tr

_BIASES = ("none", "lora_only", "all")
_PROBES = 7  # numbers of a fingerprint, besides the first
_TOLERANCE = 0.02  # of a weight's root mean square; rounding W to bfloat16 moves a probe by a tenth of it


def lora_state_dict(model: nn.Module, bias: str = "none") -> dict[str, Tensor]:
    """A and B of every LoRA layer, under loralib's names, with two small tensors for `load` beside each pair.

    Args:
        model: a model with LoRA layers, none of them merged.
        bias: "none", "lora_only" (biases of LoRA layers too) or "all" (every bias); what
            `mark_only_lora_as_trainable` was given.

    Returns:
        for each layer `PATH.lora_A`, `PATH.lora_B`, `PATH.lora_base` (the fingerprint of W) and
        `PATH.lora_scaling` (alpha / r, which loralib leaves to memory), then the biases. Copies, on the
        model's device: training on does not change them.

    Raises:
        LessonError: for a model without LoRA layers or with a merged one, and another `bias`.
    """
    layers = lora_layers(model)
    check_bias(bias)
    own = model.state_dict(keep_vars=True)  # refuses a merged layer
    state: dict[str, Tensor] = {}
    for path, layer in layers.items():
        state |= {name: own[name] for name in (key(path, "lora_A"), key(path, "lora_B"))}
        state[key(path, "lora_base")] = fingerprint(layer.weight)
        state[key(path, "lora_scaling")] = torch.tensor(layer.scaling, dtype=torch.float64)
    of_layers = {key(path, "bias") for path in layers}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if is_bias(name) and (bias == "all" or bias == "lora_only" and name in of_layers):
            state[name] = parameter
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def load(
    model: nn.Module, base: Mapping[str, Tensor] | None = None, lora: Mapping[str, Tensor] | None = None
) -> None:
    """Loads a base, an adapter, or both, after checking that they fit the model and each other.

    Nothing is written unless everything fits. What it catches that `load_state_dict(strict=False)` does not:

    - names that are missing, unexpected or of another shape, so also the two files exchanged;
    - an adapter on a base other than its own: loaded before the base, or onto the random W of a new layer,
      or onto W + delta, saved from loralib after `.eval()`, where it would count twice;
    - a base put under A and B that were trained on another one;
    - an adapter trained with another alpha / r than the layer has.

    Args:
        model: a model with LoRA layers, none of them merged.
        base: the state dict of the model without LoRA; None where the model has its base already. A weight
            shared by two names (tied embeddings) may be there under one of them.
        lora: what `lora_state_dict` gave. One without fingerprints (loralib's) is taken, with a warning. A
            weight counts as the same where its fingerprint is, so copies rounded to 16 bits pass, and so does
            a difference of less than about 2% of W's size.

    Raises:
        LessonError: for all of the above, naming the keys or the layer; and for a merged layer.
    """
    layers = lora_layers(model)
    own = model.state_dict(keep_vars=True)  # refuses a merged layer
    adapters = {key(path, name) for path in layers for name in ("lora_A", "lora_B")}
    if base is not None:
        _check_keys("base", base, own, [name for name in own if name not in adapters])
    if lora is not None:
        notes = {key(path, name) for path in layers for name in ("lora_base", "lora_scaling")}
        biases = {name for name in own if is_bias(name)}
        _check_keys("lora", lora, own, sorted(adapters), biases | notes)
        _check_scaling(layers, lora)
    # A shared weight may be given under its other name.
    weights = {id(own[name]): tensor for name, tensor in (base or {}).items()}
    _check_bases(layers, weights, lora)
    given = {**(base or {}), **(lora or {})}
    model.load_state_dict({name: tensor for name, tensor in given.items() if name in own}, strict=False)


def fingerprint(weight: Tensor) -> Tensor:
    """Eight numbers by which a weight is known again, also after rounding to 16 bits.

    The root mean square of W, then seven times a^T W b with fixed waves a and b of length 1. Between two
    unrelated weights each of the seven differs by about that root mean square; rounding to bfloat16 moves
    them by about 0.2% of it.

    Args:
        weight: of any shape with two dimensions or more; the first one gives the rows.

    Returns:
        float32 of shape (8,), on the CPU.
    """
    matrix = weight.detach().flatten(1).float()  # (rows, columns)
    rows, columns = _waves(matrix.shape[0], 0).to(matrix), _waves(matrix.shape[1], 1).to(matrix)
    probes = (rows @ matrix * columns).sum(dim=1)
    return torch.cat([matrix.square().mean().sqrt().view(1), probes]).cpu()


def _waves(size: int, offset: int) -> Tensor:
    """PROBES cosines of length 1 and unlike frequencies, of shape (_PROBES, size)."""
    frequencies = 1 + torch.arange(_PROBES, dtype=torch.float64) * 0.2718 + offset * 0.1414
    waves = torch.cos(frequencies[:, None] * torch.arange(1, size + 1))
    return waves / waves.norm(dim=1, keepdim=True)


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() <= _TOLERANCE * one[0]).all())


def key(path: str, name: str) -> str:
    """The key of a layer's tensor in a state dict."""
    return f"{path}.{name}" if path else name


def is_bias(name: str) -> bool:
    """Whether this is the name of a bias."""
    return name.rsplit(".", 1)[-1].startswith("bias")


def check_bias(bias: str) -> None:
    """Refuses what is none of the three."""
    if bias not in _BIASES:
        raise LessonError(
            "There is no bias={bias!r}. Choose one of: {biases}.", bias=bias, biases=", ".join(_BIASES),
        )


def _check_keys(
    which: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor], needed: list[str],
    allowed: Set[str] = frozenset(),
) -> None:  # fmt: skip
    """Refuses names and shapes other than the model's; one name of a shared tensor is enough."""
    there = {id(own[name]) for name in needed if name in given}
    known = {*needed, *allowed}
    found = []
    if missing := [name for name in needed if name not in given and id(own[name]) not in there]:
        found.append(Translated("missing: {names}", names=_first(missing)))
    if unexpected := [name for name in given if name not in known]:
        found.append(Translated("unexpected: {names}", names=_first(unexpected)))
    if other := [
        f"{name} {tuple(given[name].shape)}, model {tuple(own[name].shape)}"
        for name in given if name in known and name in own and given[name].shape != own[name].shape
    ]:
        found.append(Translated("of another shape: {names}", names=_first(other)))
    if found:
        raise LessonError(
            "The state dict {which!r} does not fit the model: {found}. Nothing was loaded. Look at the file, "
            "the layers' names and the rank r; base is the model without LoRA, lora comes from "
            "lora_state_dict.",
            which=which, found=joined("; ", found),
        )


def _check_scaling(layers: Mapping[str, LoraLayer], lora: Mapping[str, Tensor]) -> None:
    for path, layer in layers.items():
        trained = float(lora.get(key(path, "lora_scaling"), layer.scaling))
        if abs(trained - layer.scaling) > 1e-3 * layer.scaling:
            raise LessonError(
                "The adapter of layer {path!r} was trained with alpha / r = {trained:g}, but this layer has "
                "{lora_alpha:g} / {r} = {scaling:g}. Make the layer with lora_alpha={trained2:g}.",
                path=path, trained=trained, lora_alpha=layer.lora_alpha, r=layer.r,
                scaling=layer.scaling, trained2=trained * layer.r,
            )


def _check_bases(
    layers: Mapping[str, LoraLayer], weights: Mapping[int, Tensor], lora: Mapping[str, Tensor] | None
) -> None:
    """Whether each A and B, loaded or in the model, will stand on the weight they were trained on.

    `weights` are those about to be loaded, by the identity of the Parameter that they go into.
    """
    unknown = []
    for path, layer in layers.items():
        below = weights.get(id(layer.weight), layer.weight)
        if lora is not None:
            trained_on = lora.get(key(path, "lora_base"))
            if trained_on is None:
                unknown.append(path)
                continue
        elif layer.lora_A.any() and layer.lora_B.any():
            trained_on = fingerprint(layer.weight)
        else:
            continue
        if not _same(trained_on.float().cpu(), fingerprint(below)):
            raise LessonError(
                "The adapter of layer {path!r} was trained on another base weight. Load the base first or "
                "together with it: load(model, base, lora), with the very base it was trained on and no "
                "LoRA added to it. Nothing was loaded.",
                path=path,
            )
    if unknown:
        warning = tr(
            "The LoRA state dict has no fingerprint for {count} layers ({unknown}), so whether the "
            "adapter belongs to this base was not checked.",
            count=len(unknown), unknown=_first(unknown),
        )
        warnings.warn(warning, stacklevel=3)


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
