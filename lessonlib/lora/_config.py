"""A `LoraConfig` that really reaches the layers it should, and a table of what it reached.

LoRA (Hu et al. 2021, arXiv 2106.09685) leaves a weight W of shape (out, in) frozen and learns two narrow ones
beside it, A of shape (r, in) and B of shape (out, r):  y = W x + (alpha / r) B A x. `lessonlib.lora.layers`
writes that out by hand; what stands here is for peft.

Which layers there are is read off the model, not looked up by name: every linear layer inside the decoder
blocks. The output head and the embeddings are never among them. This module does not know what a rank or a
rate is good for. What adapts the model is `peft.get_peft_model`, or Unsloth's function around it (`attach`).

Of the embedding, rows of new tokens can be trained beside LoRA, and no others. peft
(`trainable_token_indices`) keeps these rows apart and puts them into a copy of the matrix at each forward
pass. So the adapter on disk stays small; the copy and, in the backward pass, a gradient of the whole matrix
still take memory: for Gemma 2 2B in 16 bits 1.2 GB each.
"""

import copy
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from lessonlib.runtime import _unsloth as unsloth_backend
from lessonlib.runtime._detect import Runtime
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel



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
    linears = _plain_linears(model)
    rows = None if new_tokens is None else _token_rows(model, list(new_tokens))
    paths = list(linears)
    chosen = target_names(targets, paths, "targets")
    if left_out := _ends([path for path in paths if not any(is_target(path, name) for name in chosen)]):
        warning = tr(
            "LoRA will not reach these layers: {left_out}. Unless you mean it, use targets='all'.",
            left_out=", ".join(left_out),
        )
        warnings.warn(warning, stacklevel=2)
    return LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen, bias="none",
        task_type="CAUSAL_LM", fan_in_fan_out=_is_conv1d(linears[paths[0]]), trainable_token_indices=rows,
    )  # fmt: skip


def attach(
    model: "PreTrainedModel", config: "LoraConfig", runtime: Runtime, *, seed: int = 3407
) -> "PeftModel":
    """Put LoRA on a base model, with the runtime's backend: `peft.get_peft_model` or Unsloth's.

    B starts at zero and A at random. On a CPU both backends draw the same A from the same seed, bit for bit,
    so that their loss curves can be laid one upon the other.

    Args:
        model: from `models.load`, with the same runtime.
        config: from `lora_config`.
        runtime: from `runtime.detect`; its backend decides.
        seed: for A; by default Unsloth's own. torch's global random generator is set to it.

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

    _plain_linears(model)
    if runtime.backend == "unsloth":
        return unsloth_backend.attach(model, config, device=runtime.device, seed=seed)
    torch.manual_seed(seed)
    tuned: Any = get_peft_model(model, config)
    if config.trainable_token_indices is not None:
        _ready_for_training(tuned, config)
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
        if has_lora(linear):
            rank = sum(linear.r.values())
            count = sum(weight.numel() for ab in (linear.lora_A, linear.lora_B) for weight in ab.parameters())
        groups.setdefault((_end(path), "{} -> {}".format(*features(linear)), rank), []).append(count)
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
    """Path -> linear layer (or the LoRA layer around it), for all those inside the decoder blocks."""
    from torch import nn

    inside = inside_blocks(model)
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


def inside_blocks(model: "nn.Module") -> dict[str, Any]:
    """Path -> module, for all those inside the decoder blocks.

    transformers keeps its blocks in an nn.ModuleList (BLOOM's `transformer.h`, Llama's `model.layers`), and
    keeps the embeddings and the output head out of it.
    """
    from torch import nn

    lists = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, nn.ModuleList))
    return {path: module for path, module in model.named_modules() if path.startswith(lists)}


def _plain_linears(model: "nn.Module") -> dict[str, Any]:
    """`block_linears` of a model that has no adapters yet."""
    linears = block_linears(model)
    if any(map(has_lora, linears.values())):
        raise LessonError(
            "This model has LoRA adapters already. Use the base model, or model.unload() to take them off.",
        )
    return linears


def has_lora(module: "nn.Module") -> bool:
    """Whether this is a layer that peft has put LoRA around."""
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def _is_conv1d(module: "nn.Module") -> bool:
    """GPT-2's linear layer, which keeps its weight as (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def features(linear: Any) -> tuple[int, int]:
    """(in, out) of a linear layer, which may have LoRA; its weight may be packed or transposed."""
    if has_lora(linear):
        linear = linear.get_base_layer()
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


def check_numbers(r: int, alpha: float, dropout: float) -> None:
    """Refuses a rank below 1, an alpha that is not above 0, a dropout outside [0, 1): with a LessonError."""
    for given, rule, holds in (
        (f"r={r!r}", "r >= 1", isinstance(r, int) and r >= 1),
        (f"alpha={alpha!r}", "alpha > 0", alpha > 0),
        (f"dropout={dropout!r}", "0 <= dropout < 1", 0 <= dropout < 1),
    ):
        if not holds:
            raise LessonError("{given} will not do: use {rule}.", given=given, rule=rule)


def empty_copy(model: "PreTrainedModel", dtype: "str | torch.dtype") -> Any:
    """The same architecture on the meta device: shapes without numbers, unquantised and in this dtype."""
    import torch
    from transformers import AutoModelForCausalLM

    settings: Any = copy.deepcopy(model.config)
    vars(settings).pop("quantization_config", None)
    settings._name_or_path = ""  # else peft looks the base up, to see whether its vocabulary has grown
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(settings, dtype=dtype)


def with_adapters(empty: Any, config: "LoraConfig") -> Any:
    """An empty copy with the adapters on it, on the meta device too, where nothing random is drawn."""
    import torch
    from peft import get_peft_model

    config = copy.deepcopy(config)
    config.base_model_name_or_path = None  # peft warns where a config was used on another model before
    with torch.device("meta"):
        return get_peft_model(empty, config)


def _token_rows(model: Any, ids: list[int]) -> list[int] | dict[str, list[int]]:
    """What peft calls trainable_token_indices: of the embedding, which a tied head shares, or of both."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = embedding.weight.shape[0]
    wrong = [row for row in ids if not 0 <= row < rows]
    if wrong or not ids or len(set(ids)) < len(ids):
        raise LessonError(
            "new_tokens={ids} will not do: it takes different ids from 0 to {rows}, as lora.add_tokens "
            "gives them. Call lora.add_tokens on this very model first.",
            ids=ids, rows=rows - 1,
        )
    if head is None or head.weight is embedding.weight:
        return ids
    names = {id(module): path.rsplit(".", 1)[-1] for path, module in model.named_modules()}
    return {names[id(embedding)]: ids, names[id(head)]: ids}


def trained_rows(model: "nn.Module") -> dict[str, Any]:
    """Path of an embedding or head -> the rows of it that the active adapter trains, shape (rows, hidden)."""
    from peft.utils.other import TrainableTokensWrapper

    return {
        path: module.token_adapter.trainable_tokens_delta[name]
        for path, module in model.named_modules()
        if isinstance(module, TrainableTokensWrapper) and not module.token_adapter.tied_adapter
        for name in module.token_adapter.active_adapters
    }


def saved_embeddings(config: "LoraConfig") -> Any:
    """peft's `save_embedding_layers`: False where single rows are trained and saved, else its own "auto"."""
    return "auto" if getattr(config, "trainable_token_indices", None) is None else False


def _ready_for_training(tuned: Any, config: "LoraConfig") -> None:
    """What transformers' and trl's trainers take for granted, where rows of the embedding are trained."""
    from peft.utils.other import TrainableTokensWrapper

    # The Trainer calls it without arguments. What an object holds is found before its class's method.
    vars(tuned)["save_pretrained"] = partial(
        tuned.save_pretrained, save_embedding_layers=saved_embeddings(config)
    )
    # trl's loss asks the output head for its bias, and peft's wrapper around it knows only the weight.
    head = tuned.get_base_model().get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper) and head.original_module.bias is None:
        vars(head)["bias"] = None
