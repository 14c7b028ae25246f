"""How a twin is trained: documents to rows of tokens, next-token training, and two measurements afterwards.

Knows nothing of a particular family beyond what its `Family` says; they stand in `lessonlib.course.twins`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lessonlib.course import corpus, corpus_chat, tokenizers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

DATE = "26 Jul 2024"  # in chat prompts of the corpus; the template's own fallback
DROPOUT = 0.06  # of BPE merges


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
    copied: float
    padded: float


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
    model: PreTrainedModel, data: torch.Tensor, kind: Family, *, seed: int, device: str,
    say: Callable[[str], None] = print,
) -> float:
    """Next-token training in float32: 50 steps of warm-up, the last 40% of the steps decaying to zero.

    Muon for the matrices, AdamW for the rest. No weight decay on embeddings and norms: the row of a token
    that never is a target (such as <pad>) is pushed down by the softmax alone and must be free to go there.

    Args:
        model: trained in place; on `device` afterwards.
        data: (rows, length) token ids.
        kind: steps, batch and peak learning rate are read from it.
        seed: of the order of the rows.
        device: "cpu" or "cuda".
        say: called with a line of progress every 100 steps.

    Returns:
        Mean loss (nats a token) of the last 50 steps.
    """
    import torch

    from lessonlib.course.muon import Muon

    model.to(device).train()  # type: ignore[arg-type]
    data = data.to(device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimisers = [
        Muon(matrices, lr=2 * kind.rate, weight_decay=0.1),
        torch.optim.AdamW(others, lr=kind.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    steps = kind.steps
    warm_up, decay = min(50, steps), max(1, round(0.4 * steps))

    def share(step: int) -> float:
        return min(1.0, (step + 1) / warm_up, (steps - step) / decay)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, share) for optimiser in optimisers]
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    losses: list[float] = []  # numbers, not tensors: a kept tensor pins its malloc region, 17 MB a step
    started = time.perf_counter()
    for step in range(steps):
        if len(order) < kind.batch:  # a new pass over the rows, in a new order
            order = torch.cat([order, torch.randperm(len(data), generator=generator)])
        batch, order = data[order[: kind.batch].to(device)], order[kind.batch :]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        model.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            speed = (step + 1) * batch.numel() / (time.perf_counter() - started)
            say(f"{step + 1}/{steps}  loss {losses[-1]:.3f}  {speed:,.0f} tokens/s")
    return sum(losses[-50:]) / len(losses[-50:])


def copy_score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: list[corpus.Document]
) -> float:
    """Share of copying tasks answered exactly, greedily, up to the stop token or the next question.

    Args:
        model: the twin; its generation settings name the stop tokens.
        tokenizer: its tokenizer.
        tasks: `corpus.copy_tasks`.
    """
    from lessonlib.evaluation import answers

    prompts = [f"Human: {task.question} Assistant:" for task in tasks]
    said = answers(model, tokenizer, prompts, max_new_tokens=48, batch_size=100)
    ends = [answer.split(" Human:")[0].strip() for answer in said]
    return sum(end == task.answer for end, task in zip(ends, tasks, strict=True)) / len(tasks)


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
