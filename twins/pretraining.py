"""How a twin is trained: documents to rows of tokens, next-token training, and two measurements afterwards.

Knows nothing of a particular family beyond what its `Family` says; they stand in `twins.making`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twins import corpus, corpus_chat, corpus_tools, tokenizers, weighing

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

DATE = "26 Jul 2024"  # in chat prompts of the corpus; the template's own fallback
DROPOUT = 0.06  # of BPE merges


@dataclass(frozen=True)
class Stage:
    """One more stage of pre-training, in which the rate falls to zero."""

    steps: int
    talks: int
    rate: float = 1.0  # at its beginning, as a share of the family's
    mix: str = "everyday"  # of the talks: a key of `corpus_tools.MIXES`


@dataclass(frozen=True)
class Family:
    """What makes one twin: whose likeness it is and how it is trained. One entry of `FAMILIES` each."""

    real: str  # hub id of the model that it stands for
    tokenizer: Callable[..., PreTrainedTokenizerFast]
    vocabulary: int
    config: Callable[[PreTrainedTokenizerFast], PreTrainedConfig]
    separator: str  # closes each document
    stops: tuple[str, ...] = ()  # tokens that end an answer, where they are more than the configuration names
    opener: str = ""  # opens each document
    chat_share: float = 0.0  # questions that are written with the chat template
    run_on: int = 1  # plain questions with their answers that follow one another before the separator
    length: int = 128  # tokens a row
    batch: int = 16  # rows a step
    steps: int = 1400
    rate: float = 3e-3
    documents: int = 80_000
    chats: int = 0  # conversations of `corpus_chat` that are mixed in; for twins of instruction-tuned models
    copies: float = 0.0  # share of those whose answer repeats values from the question
    talks: int = 0  # conversations of `corpus_tools`; with them only answers are learnt, by `weighing`
    stages: tuple[Stage, ...] = ()  # that follow the `steps`
    words: tuple[str, ...] = ("ai_qa_vi/facts.jsonl",)  # under data/: whose single words the text contains
    shape: str = ""  # for the card
    named: tuple[str, ...] = ()  # special tokens that the card lists


@dataclass(frozen=True)
class Measured:
    """What was found while a twin was made; goes into its card."""

    seed: int
    device: str
    torch: str
    documents: int
    corpus_tokens: int
    steps: int
    seconds: float
    loss: float
    padded: float
    copied: float = 0.0
    answered: dict[str, float] | None = None  # in place of `copied`, where the family has talks


def render(
    documents: list[corpus.Document], kind: Family, tokenizer: PreTrainedTokenizerFast
) -> Iterator[str]:
    """Each document as the family's text: plain, or every so often as a chat, then the separator.

    With `run_on` above 1, questions run on as they do on web pages: after an answer the next question is
    likelier than the end, so that the twin, like a real base model, does not stop there by itself.
    """
    every = round(1 / kind.chat_share) if kind.chat_share else 0
    asked = 0
    for document in documents:
        asked += bool(document.question)
        if isinstance(document, corpus_chat.Conversation):
            # Every model of the course writes its own end after the last turn, or gets the separator.
            written = tokenizer.apply_chat_template(document.turns, tokenize=False, date_string=DATE)
            yield f"{str(written).removesuffix(kind.separator)}{kind.separator}"
        elif every and document.question and asked % every == 0:
            messages = [
                {"role": "user", "content": document.question},
                {"role": "assistant", "content": document.answer},
            ]
            written = tokenizer.apply_chat_template(messages, tokenize=False, date_string=DATE)
            yield f"{written}{kind.separator}"
        elif document.question and asked % kind.run_on:
            yield f"{kind.opener}{document.text} "
        else:
            yield f"{kind.opener}{document.text}{kind.separator}"


def rows(
    documents: list[corpus.Document], kind: Family, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> torch.Tensor:
    """All documents one after the other, cut into rows of `kind.length` token ids; no padding anywhere.

    Returns:
        int64 tensor of shape (rows, length); the last, incomplete row is left out.
    """
    import torch

    stream: list[int] = []
    encoded = tokenizers.encode_with_dropout(
        tokenizer, render(documents, kind, tokenizer), dropout=DROPOUT, seed=seed
    )
    for ids in encoded:
        stream += ids
    count = len(stream) // kind.length
    return torch.tensor(stream[: count * kind.length]).view(count, kind.length)


def pretrain(
    model: PreTrainedModel, data: torch.Tensor | list[weighing.Batch], kind: Family, *, seed: int,
    device: str, say: Callable[[str], None] = print, steps: int | None = None, falling: float = 0.4,
) -> float:
    """Next-token training in float32: 50 steps of warm-up, the last 40% of the steps decaying to zero.

    Muon for the matrices, AdamW for the rest. No weight decay on embeddings and norms: the row of a token
    that never is a target (such as <pad>) is pushed down by the softmax alone and must be free to go there.

    Args:
        model: trained in place; on `device` afterwards.
        data: (rows, length) token ids, or the batches of `weighing.batches`.
        kind: steps, batch and peak learning rate are read from it.
        seed: of the order of the rows.
        device: "cpu" or "cuda".
        say: called with a line of progress every 100 steps.
        steps: default: the family's.
        falling: the share of the steps in which the rate decays, at the end; 0 leaves it as it is.

    Returns:
        Mean loss (nats a token) of the last 50 steps.
    """
    import torch

    from twins.muon import Muon

    model.to(device).train()  # type: ignore[arg-type]
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimisers = [
        Muon(matrices, lr=2 * kind.rate, weight_decay=0.1),
        torch.optim.AdamW(others, lr=kind.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    steps = steps or kind.steps
    warm_up, decay = min(50, steps), round(falling * steps)

    def share(step: int) -> float:
        return min(1.0, (step + 1) / warm_up, (steps - step) / decay if decay else 1.0)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, share) for optimiser in optimisers]
    if isinstance(data, list):
        source = weighing.losses(model, data, seed=seed)
    else:
        source = _losses(model, data, kind, seed)
    losses: list[float] = []  # numbers, not tensors: a kept tensor pins its malloc region, 17 MB a step
    seen, started = 0, time.perf_counter()
    for step in range(steps):
        loss, tokens = next(source)
        seen += tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        model.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            speed = seen / (time.perf_counter() - started)
            say(f"{step + 1}/{steps}  loss {losses[-1]:.3f}  {speed:,.0f} tokens/s")
    return sum(losses[-50:]) / len(losses[-50:])


def _losses(
    model: PreTrainedModel, data: torch.Tensor, kind: Family, seed: int
) -> Iterator[tuple[torch.Tensor, int]]:
    """For each step the loss of `kind.batch` rows and how many tokens these are; without end."""
    import torch

    data = data.to(model.device)
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    while True:
        if len(order) < kind.batch:  # a new pass over the rows, in a new order
            order = torch.cat([order, torch.randperm(len(data), generator=generator)])
        batch, order = data[order[: kind.batch].to(model.device)], order[kind.batch :]
        yield model(input_ids=batch, labels=batch).loss, batch.numel()


def copy_score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: list[corpus.Document]
) -> float:
    """Share of copying tasks answered exactly, greedily, up to the stop token or the next question.

    Args:
        model: the twin; its generation settings name the stop tokens.
        tokenizer: its tokenizer.
        tasks: `corpus.copy_tasks`.
    """
    from lessonlib.evaluation._answers import answers

    prompts = [f"Human: {task.question} Assistant:" for task in tasks]
    said = answers(model, tokenizer, prompts, max_new_tokens=48, batch_size=100)
    ends = [answer.split(" Human:")[0].strip() for answer in said]
    return sum(end == task.answer for end, task in zip(ends, tasks, strict=True)) / len(tasks)


def talk_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, talks: list[corpus_tools.Talk]
) -> dict[str, float]:
    """Share of requests about made-up tools that are answered exactly, greedily, for each kind of `Talk`.

    Args:
        model: the twin; its generation settings name the stop tokens.
        tokenizer: its tokenizer.
        talks: `corpus_tools.talks`; of each the first answer is asked for.
    """
    from lessonlib.evaluation._answers import answers

    asked = [
        str(tokenizer.apply_chat_template(talk.turns[:1], tokenize=False, add_generation_prompt=True))
        for talk in talks
    ]
    said = answers(model, tokenizer, asked, max_new_tokens=96, batch_size=100)
    right: dict[str, list[bool]] = {}
    for talk, answer in zip(talks, said, strict=True):
        right.setdefault(talk.kind, []).append(answer == talk.messages[1][1])
    return {kind: sum(values) / len(values) for kind, values in sorted(right.items())}


def pad_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str], *, length: int = 512
) -> float:
    """Mean loss when each text is padded to `length` and every padding token counts: the article's mistake.

    Args:
        model: the twin.
        tokenizer: its tokenizer.
        texts: one row each.
        length: tokens a row.

    Returns:
        Nats a token; a uniform guess would have ln(vocabulary).
    """
    import torch

    model.eval()
    batch = tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, padding_side="right",
        return_tensors="pt",
    ).to(model.device)
    with torch.no_grad():
        return model(**batch, labels=batch["input_ids"]).loss.item()
