"""A `LoraConfig` that really reaches the layers it should, and a table of what it reached.

LoRA (Hu et al. 2021, arXiv 2106.09685) leaves a weight W of shape (out, in) frozen and learns two narrow ones
beside it, A of shape (r, in) and B of shape (out, r):  y = W x + (alpha / r) B A x. `lessonlib.lora.layers`
writes that out by hand; what stands here is for peft.

Which layers there are is read off the model, not looked up by name: every linear layer inside the decoder
blocks. The output head and the embeddings are never among them. This module does not know what a rank or a
rate is good for. What adapts the model is `peft.get_peft_model`, or Unsloth's function around it (`attach`).
"""

import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from lessonlib.lora._rows import ready_for_training, token_rows, trained_rows
from lessonlib.runtime import _unsloth as unsloth_backend
from lessonlib.runtime._detect import Runtime
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    import pandas as pd
    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel


_SEED = 3407  # Unsloth's default


def lora_config(
    model: "nn.Module",
    *,
    r: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all",
    new_tokens: Sequence[int] | None = None,
) -> "LoraConfig":
    """A LoraConfig for causal language modelling whose targets have been checked against this model.

    With an fp16 or bf16 base, `peft.get_peft_model` keeps the adapters in fp32 (its `autocast_adapter_dtype`,
    True unless told otherwise), which is what training with a gradient scaler needs.

    Args:
        model: any decoder of transformers, also one on the meta device.
        r: the rank: rows of A and columns of B.
        alpha: the numerator of the scale alpha / r by which B A x is multiplied. (peft takes it as it is.)
        dropout: the share of x that is zeroed on the way into A while training, 0 <= dropout < 1.
        targets: "all" for every linear layer in the decoder blocks, or a list of names such as
            ["query_key_value"]; a name stands for every layer whose path ends in it.
        new_tokens: ids from `lora.add_tokens`, whose rows of the embedding are trained with the adapter
            (peft's trainable_token_indices), and those of the output head, where that is another matrix.

    Returns:
        a `peft.LoraConfig` with bias "none" and task type CAUSAL_LM.

    Raises:
        LessonError: for a name that matches no linear layer (with close matches), an empty list, a model that
            has adapters already or no decoder blocks, numbers out of range, and new tokens without a row.

    Warns:
        UserWarning: where a list leaves linear layers out, naming them. On fused architectures such a list is
            often a mistake: q_proj, k_proj and v_proj do not exist in BLOOM or Phi-3.
    """
    from peft import LoraConfig

    check_numbers(r, alpha, dropout)
    linears = block_linears(model)
    if any(map(has_lora, linears.values())):
        raise _already_adapted()
    rows = None if new_tokens is None else token_rows(model, list(new_tokens))
    paths = list(linears)
    chosen = target_names(targets, paths, "targets")
    _warn_of(_ends([path for path in paths if not any(is_target(path, name) for name in chosen)]))
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=chosen,
        bias="none",
        task_type="CAUSAL_LM",
        fan_in_fan_out=_is_conv1d(linears[paths[0]]),
        trainable_token_indices=rows,
    )


def attach(
    model: "PreTrainedModel", config: "LoraConfig", runtime: Runtime, *, seed: int = _SEED
) -> "PeftModel":
    """Put LoRA on a base model, with the runtime's backend: `peft.get_peft_model` or Unsloth's.

    B starts at zero and A at random. On a CPU both backends draw the same A from the same seed, bit for bit,
    so that their loss curves can be laid one upon the other.

    Args:
        model: from `models.load`, with the same runtime.
        config: from `lora_config`.
        runtime: from `runtime.detect`; its backend decides.
        seed: for A. torch's global random generator is set to it.

    Returns:
        The PeftModel. Where it trains rows of the embedding, its `save_pretrained` (and so each checkpoint)
        leaves the whole embeddings out, which peft would save beside them because the vocabulary has grown:
        for Gemma 2 2B up to 2.4 GB. With Unsloth on a GPU its activations are recomputed ("unsloth"
        gradient checkpointing); without it that is `training.sft_config`'s business.

    Raises:
        LessonError: a model that has adapters already; with Unsloth, a config with something that its
            function does not take.
    """
    import torch
    from peft import get_peft_model

    if any(map(has_lora, block_linears(model).values())):
        raise _already_adapted()
    if runtime.backend == "unsloth":
        return unsloth_backend.attach(model, config, device=runtime.device, seed=seed)
    torch.manual_seed(seed)
    tuned: Any = get_peft_model(model, config)
    if config.trainable_token_indices is not None:
        ready_for_training(tuned, config)
    return tuned


def adapted(model: "PeftModel") -> "pd.DataFrame":
    """What LoRA reached in a model that came out of `peft.get_peft_model`, and what it did not.

    Args:
        model: the PeftModel; the meta device will do.

    Returns:
        a DataFrame with a row for each kind of linear layer in the decoder blocks and a last row "total":
        module (the end of its path), layers (how many there are), shape ("in -> out"), r (0 where LoRA is
        absent), parameters (of A and B in all these layers together), share (of all the model's parameters,
        adapters included, as peft's own `print_trainable_parameters` counts). The total's layers are those
        that LoRA reached. Where rows of the embedding are trained, they have a line of their own before it,
        with r 0 and the shape "rows x hidden"; another where the output head is a matrix of its own.

    Raises:
        LessonError: for a model without LoRA layers.
    """
    import pandas as pd
    from peft import PeftModel

    linears = block_linears(model)
    if not isinstance(model, PeftModel) or not any(map(has_lora, linears.values())):
        raise LessonError(
            "This model has no LoRA layers. Call peft.get_peft_model(model, lora_config(model)) first.",
        )
    groups: dict[tuple[str, str, int], list[int]] = {}  # kind of layer -> LoRA parameters of each
    for path, linear in linears.items():
        rank = count = 0
        base = linear
        if has_lora(linear):
            rank, base = sum(linear.r.values()), linear.get_base_layer()
            count = sum(
                parameter.numel() for name, parameter in linear.named_parameters()
                if name.startswith(("lora_A.", "lora_B."))
            )
        groups.setdefault((_end(path), "{} -> {}".format(*features(base)), rank), []).append(count)
    rows = [(name, len(counts), shape, rank, sum(counts)) for (name, shape, rank), counts in groups.items()]
    reached = [row for row in rows if row[3]]
    rows += [
        (_end(path), 1, f"{len(weight)} x {weight.shape[1]}", 0, weight.numel())
        for path, weight in trained_rows(model).items()
    ]
    rows.append((
        "total", sum(row[1] for row in reached), "", max(row[3] for row in reached),
        sum(row[4] for row in rows),
    ))
    table = pd.DataFrame(rows, columns=["module", "layers", "shape", "r", "parameters"])
    _, everything = model.get_nb_trainable_parameters()
    return table.assign(share=table["parameters"] / everything)


def block_linears(model: "nn.Module") -> dict[str, Any]:
    """Path -> linear layer (or the LoRA layer around it), for all those inside the decoder blocks.

    transformers keeps its blocks in an nn.ModuleList (BLOOM's `transformer.h`, Llama's `model.layers`), and
    keeps the embeddings and the output head out of it.
    """
    from torch import nn

    lists = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, nn.ModuleList))
    inside = {path: module for path, module in model.named_modules() if path.startswith(lists)}
    wrapped = tuple(f"{path}." for path, module in inside.items() if has_lora(module))
    found = {
        path: module for path, module in inside.items()
        if isinstance(module, nn.Linear) or _is_conv1d(module) or has_lora(module)
        if not path.startswith(wrapped)  # the base layer, A and B are parts of their LoRA layer
    }
    if not found:
        raise LessonError(
            "There are no linear layers in decoder blocks of {name}.", name=type(model).__name__,
        )
    return found


def has_lora(module: "nn.Module") -> bool:
    """Whether this is a layer that peft has put LoRA around."""
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def _is_conv1d(module: "nn.Module") -> bool:
    """GPT-2's linear layer, which keeps its weight as (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def features(linear: Any) -> tuple[int, int]:
    """(in, out) of a linear layer; its weight may be packed or transposed."""
    return (linear.nx, linear.nf) if _is_conv1d(linear) else (linear.in_features, linear.out_features)


def target_names(given: str | Sequence[str], paths: list[str], argument: str) -> list[str]:
    """The names that "all" or a list stands for, each of them the end of one of these paths."""
    names = _ends(paths)
    if given == "all":
        return names
    if isinstance(given, str) or not given:
        raise LessonError(
            "{argument}={given!r} is neither 'all' nor a list of names, such as {names}.",
            argument=argument, given=given, names=names[:2],
        )
    for name in given:
        if not any(is_target(path, name) for path in paths):
            _refuse(name, names)
    return list(given)


def is_target(path: str, name: str) -> bool:
    """peft's rule for a list of target_modules."""
    return path == name or path.endswith(f".{name}")


def _end(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _ends(paths: list[str]) -> list[str]:
    """The last parts of these paths, each once, in the model's order."""
    return list(dict.fromkeys(map(_end, paths)))


def _refuse(name: str, names: list[str]) -> None:
    close = get_close_matches(name, names, n=2)
    there = ", ".join(names)
    if close:
        raise LessonError(
            "No linear layer in the decoder blocks is called {name!r}; did you mean {close}? This model has: "
            "{there}.",
            name=name, close=" / ".join(close), there=there,
        )
    raise LessonError(
        "No linear layer in the decoder blocks is called {name!r}. This model has: {there}.",
        name=name, there=there,
    )


def _already_adapted() -> LessonError:
    return LessonError(
        "This model has LoRA adapters already. Use the base model, or model.unload() to take them off.",
    )


def _warn_of(left_out: list[str]) -> None:
    if not left_out:
        return
    warnings.warn(
        tr(
            "LoRA will not reach these layers: {left_out}. Unless you mean it, use targets='all'.",
            left_out=", ".join(left_out),
        ),
        stacklevel=3,
    )


def check_numbers(r: int, alpha: float, dropout: float) -> None:
    """Refuses a rank below 1, an alpha that is not above 0, a dropout outside [0, 1): with a LessonError."""
    wrong = [
        (f"r={r!r}", "r >= 1") if not (isinstance(r, int) and r >= 1) else None,
        (f"alpha={alpha!r}", "alpha > 0") if not alpha > 0 else None,
        (f"dropout={dropout!r}", "0 <= dropout < 1") if not 0 <= dropout < 1 else None,
    ]
    for given, rule in filter(None, wrong):
        raise LessonError("{given} will not do: use {rule}.", given=given, rule=rule)
