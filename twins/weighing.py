"""Batches of whole documents with a weight for each token, for twins that shall learn from a prompt.

A prompt full of random values cannot be foretold; learning to foretell it anyway takes up what a tiny model
has. So only what the assistant says is learnt, and its decision (what stands before the first ": " of an
answer in a `Talk`) counts several times. Documents of like length go into one batch, so that hardly anything
is padded, and the output head works on the learnt tokens alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from twins.corpus_tools import Talk

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from twins.corpus import Document

DECIDED = 6.0  # against 1 for the rest of an answer
Batch = tuple["torch.Tensor", "torch.Tensor"]


def batches(
    documents: list[Document], texts: list[str], tokenizer: PreTrainedTokenizerFast, *, opening: str,
    closing: str, length: int, size: int, seed: int,
) -> list[Batch]:
    """The documents in batches of like length, the batches in random order.

    Args:
        documents: to be trained on.
        texts: each document as the chat template writes it.
        tokenizer: special tokens in a text are recognised, none is added.
        opening, closing: what stands before and at the end of each answer.
        length: longer documents are left out.
        size: tokens in a batch, at most.
        seed: of the order.

    Returns:
        pairs of ids (int64) and weights (float32), both of shape (documents, tokens), padded on the right
        with weight 0.
    """
    import torch

    answer = re.compile(re.escape(opening) + "(.*?" + re.escape(closing) + ")", re.DOTALL)
    rows: list[tuple[list[int], list[float]]] = []
    for start in range(0, len(texts), 4096):
        part = slice(start, start + 4096)
        encoded: Any = tokenizer(texts[part], add_special_tokens=False, return_offsets_mapping=True)
        for document, text, ids, offsets in zip(
            documents[part], texts[part], encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            if len(ids) <= length:
                rows.append((ids, _weights(text, offsets, answer, isinstance(document, Talk))))
    rng = random.Random(seed)
    rng.shuffle(rows)
    rows.sort(key=lambda row: len(row[0]))
    made, pad = [], tokenizer.pad_token_id
    while rows:
        longest = len(rows[-1][0])
        taken = [rows.pop() for _ in range(min(len(rows), max(1, size // longest)))]
        made.append((
            torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in taken]),
            torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in taken]),
        ))
    rng.shuffle(made)
    return made


def losses(model: PreTrainedModel, data: list[Batch], *, seed: int) -> Iterator[tuple[torch.Tensor, int]]:
    """For each step the weighted mean of the cross-entropy (nats), and how many tokens it saw; without end.

    Args:
        model: a Gemma-2; its softcapping of the logits is done here too.
        data: from `batches`; after all of them, all again in another order.
        seed: of these orders.
    """
    from torch.nn import functional

    rng, inner = random.Random(seed), model.get_decoder()
    cap = model.config.final_logit_softcapping
    order: list[int] = []
    while True:
        if not order:
            order = rng.sample(range(len(data)), len(data))
        ids, weights = (tensor.to(model.device) for tensor in data[order.pop()])
        # (documents, tokens - 1, hidden)
        hidden = inner(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        learnt = weights[:, 1:] > 0
        logits = model.lm_head(hidden[learnt])  # (learnt tokens, vocabulary)
        each = functional.cross_entropy((logits / cap).tanh() * cap, ids[:, 1:][learnt], reduction="none")
        heavy = weights[:, 1:][learnt]
        yield (each * heavy).sum() / heavy.sum(), ids.numel()


def _weights(text: str, offsets: list[tuple[int, int]], answer: re.Pattern[str], talk: bool) -> list[float]:
    spans = []
    for found in answer.finditer(text):
        start, end = found.span(1)
        spans.append((start, text.find(": ", start, end) + 1 if talk else 0, end))
    weights = []
    for at, _ in offsets:
        inside = next((span for span in spans if span[0] <= at < span[2]), None)
        weights.append(0.0 if inside is None else DECIDED if at < inside[1] else 1.0)
    return weights
