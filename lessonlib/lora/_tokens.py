"""New tokens: registered under the right name, given a sensible first embedding, and trained as a few rows.

A tokenizer cuts a tag such as `<tool_call>` into four or five pieces. As one token it is shorter, cannot be
cut otherwise beside other text, and can end generation. It then needs a row of its own in the embedding
matrix (and in the output head, where that is another matrix), which nothing has trained.

`add` registers tokens and fills those rows. `lora.lora_config(model, new_tokens=ids)` trains them and leaves
the other rows alone. Whoever loads such an adapter later adds the same tokens to the base first:

    model, tokenizer = models.load(...)
    lora.add_tokens(model, tokenizer, TAGS)
    tuned = PeftModel.from_pretrained(model, folder)
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from lessonlib.lora._config import empty_copy, saved_embeddings, with_adapters
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)>")
_ALIKE = 0.9  # difflib's ratio: one letter left out of "tool_response" gives 0.96, "tool" beside "tools" 0.89

def add(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[str]
) -> list[int]:
    """Add tokens to a tokenizer and to a model, in place, each with a sensible first row.

    The new row is the mean of the rows of the pieces that the token's text was cut into until now. At the
    start the model so reads the token much like its pieces, and gives it about their mean logit.
    Another common start is the mean of all rows: Hewitt, "Initializing New Word Embeddings for Pretrained
    Language Models" (2021), shows that the new token then takes at most about its share of the probability,
    so that the answers change little. Numbers around 0, as in a fresh model, give a logit of about 0. Where
    the others lie far below that, the new token takes over much of the probability of every answer.

    The embeddings grow only if they have too few rows; some models (Phi-3) have more rows than their
    tokenizer has tokens. Tokens that are there already are reported in a line and keep their rows, so a
    second call changes nothing.

    Args:
        model: a base model, before LoRA; 4 bits and the meta device will do.
        tokenizer: its tokenizer, or the one that was saved with an adapter and knows the tokens.
        tokens: what to add, such as ["<tool_call>", "</tool_call>"]. They are added with special=False
            (`skip_special_tokens` must not drop what a program is to read) and normalized=False.

    Returns:
        Their ids, in the order of `tokens`, for `lora.lora_config(model, new_tokens=ids)`.

    Raises:
        LessonError: no tokens; a tag without its partner (`<x>` without `</x>`); a name that differs from
            another token's in a letter or so; a model that has adapters already.
    """
    from peft import PeftModel
    from transformers import AddedToken

    if isinstance(model, PeftModel):
        raise LessonError(
            "This model has adapters already, and its embeddings can no longer grow. Call "
            "lora.add_tokens on the base model, then lora.attach or PeftModel.from_pretrained.",
        )
    wanted = list(dict.fromkeys(tokens))
    vocabulary = tokenizer.get_vocab()
    new = [token for token in wanted if token not in vocabulary]
    _check_tokens(wanted, new, vocabulary, [*tokenizer.get_added_vocab()])
    known = [token for token in wanted if token in vocabulary]
    if known:
        print(tr("There already, left alone: {names}.", names=", ".join(known)))
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in new])
    ids: list[int] = tokenizer.convert_tokens_to_ids(wanted)  # type: ignore[assignment]
    embedding: Any = model.get_input_embeddings()
    rows: int = embedding.weight.shape[0]
    if max(ids) >= rows:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    sources: dict[int, list[int]] = dict.fromkeys(range(rows, max(ids) + 1), [])
    for token, row in zip(wanted, ids, strict=True):
        if token in new or row >= rows:
            sources[row] = _pieces(tokenizer, token)
    _fill(model, sources, rows)
    return [ids[wanted.index(token)] for token in tokens]


def unregistered(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> "pd.DataFrame":
    """Tags that occur in texts and are cut into pieces: what a misspelt special token leaves behind.

    Args:
        tokenizer: after `add`.
        texts: such as the messages of the training rows.

    Returns:
        A DataFrame with the columns tag, times (how often it occurs) and pieces (the tokens it is cut into),
        the most frequent first; without rows if every tag is a single token.
    """
    import pandas as pd

    found = Counter(match[0] for written in texts for match in _TAG.finditer(written))
    rows = [(tag, times, tokenizer.tokenize(tag)) for tag, times in found.most_common()]
    return pd.DataFrame([row for row in rows if len(row[2]) > 1], columns=["tag", "times", "pieces"])


def adapter_size(
    model: "PreTrainedModel", config: "LoraConfig", *, dtype: "torch.dtype | None" = None
) -> dict[str, int]:
    """How large an adapter would be on disk, counted on the meta device: no weights, nothing downloaded.

    peft itself puts the adapter on an empty copy of the architecture and lists what it would save. peft keeps
    adapters of a half-precision base in fp32; whole embeddings have the type of the base.

    Args:
        model: any model of transformers, such as `models.skeleton("gemma-2-2b")`; it is not changed.
        config: what to train: target_modules, modules_to_save, trainable_token_indices.
        dtype: the number format of the base; None: that of `model`.

    Returns:
        trainable (numbers that the optimiser changes), and in bytes: lora (A and B), token_rows
        (trainable_token_indices), embeddings (whole matrices), total.
    """
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that it will save the embeddings: they are counted here
        tuned = with_adapters(empty_copy(model, dtype or model.dtype), config)
        saved = get_peft_model_state_dict(tuned, save_embedding_layers=saved_embeddings(config))
    size = {"trainable": tuned.get_nb_trainable_parameters()[0], "lora": 0, "token_rows": 0, "embeddings": 0}
    for name, weight in saved.items():
        kind = "lora" if "lora_" in name else "token_rows" if "trainable_tokens" in name else "embeddings"
        size[kind] += weight.nbytes
    return size | {"total": size["lora"] + size["token_rows"] + size["embeddings"]}


def _pieces(tokenizer: Any, written: str) -> list[int]:
    """Ids of what a text is cut into by the vocabulary that was learnt, whatever tokens were added to it."""
    core = tokenizer.backend_tokenizer
    normal = core.normalizer.normalize_str(written) if core.normalizer else written
    cut = core.pre_tokenizer
    parts = [part for part, _ in cut.pre_tokenize_str(normal)] if cut else [normal]
    return [piece.id for part in parts for piece in core.model.tokenize(part)]


def _fill(model: Any, sources: Mapping[int, list[int]], rows: int) -> None:
    """Write new rows into the input embedding, and into the head where that is another matrix.

    Args:
        sources: new row -> the rows whose mean it takes; none: the mean of all.
        rows: how many rows there were: those after them have not been trained.
    """
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    matrices = {id(layer.weight): layer.weight for layer in layers if layer is not None}
    for weight in matrices.values():  # (vocabulary, hidden), one matrix where the head is tied
        old = weight.data[:rows]
        for row, pieces in sources.items():
            weight.data[row] = (old[pieces] if pieces else old).float().mean(dim=0).to(weight.dtype)


def _check_tokens(
    wanted: list[str], new: list[str], vocabulary: Mapping[str, int], added: list[str]
) -> None:
    if not wanted or not all(wanted):
        raise LessonError(
            "tokens={wanted!r}: at least one token is needed, and none may be empty.", wanted=wanted,
        )
    for token in new:
        others = [other for other in [*wanted, *added] if _opening(other) != _opening(token)]
        names = {_name(other): other for other in reversed(others)}
        if close := get_close_matches(_name(token), names, n=1, cutoff=_ALIKE):
            raise LessonError(
                "{token} and {near} differ very little: is one of them misspelt? A misspelt token is "
                "trained for nothing, while the right one is still cut into pieces. Correct it, or choose "
                "two names that cannot be taken for each other.",
                token=token, near=names[close[0]],
            )
        tag = _TAG.fullmatch(token)
        if tag is None:
            continue
        partner = f"<{tag[2]}>" if tag[1] else f"</{tag[2]}>"
        if partner not in wanted and partner not in vocabulary:
            raise LessonError(
                "{token} comes without {partner}. Add both; a token that stands alone is better written "
                "<|{tag}|>.",
                token=token, partner=partner, tag=tag[2],
            )


def _opening(token: str) -> str:
    """The opening of a tag, whichever of its two tokens this is."""
    return token.replace("</", "<")


def _name(token: str) -> str:
    """What a slip of the keyboard is looked for in."""
    return token.strip("</|>").casefold().replace("-", "_")
