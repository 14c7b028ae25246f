"""Rows of an embedding that are trained beside LoRA: those of new tokens, and no others.

peft (`trainable_token_indices`) keeps these rows apart and puts them into a copy of the matrix at each
forward pass. So the adapter on disk stays small; the copy and, in the backward pass, a gradient of the whole
matrix still take memory: for Gemma 2 2B in 16 bits 1.2 GB each.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn


def token_rows(model: Any, ids: list[int]) -> list[int] | dict[str, list[int]]:
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


def ready_for_training(tuned: Any, config: "LoraConfig") -> None:
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
