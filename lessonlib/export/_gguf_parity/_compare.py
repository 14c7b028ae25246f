"""What the trained model says to the texts of a comparison, and how far what an artifact says is from it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lessonlib.evaluation._answers import continuations, inference, prompt_ids, stop_ids
from lessonlib.evaluation._parity import OUTLIER, USUAL, divergence
from lessonlib.export._gguf_parity._report import Row
from lessonlib.export._gguf_parity._texts import conversations
from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    import torch

KEPT = 128  # positions before an answer whose logits are kept: those of a large vocabulary fill the memory
BEFORE = 12  # characters


@dataclass(frozen=True)
class Trained:
    """What the trained model says, and so what every artifact has to say.

    Logits are one tensor for each prompt with its answer, of shape (last positions, vocabulary), in float32,
    on the CPU.
    """

    tokenizer: Any
    options: Mapping[str, Any]  # of the chat template
    texts: list[str]
    chats: list[str]  # rendered
    ids: list[list[int]]  # of texts and chats
    rendered: list[str | None]  # of conversations()
    stops: frozenset[int]
    prompts: Sequence[str]
    encoded: list[list[int]]  # the prompts
    answers: list[list[int]]  # greedy, without the stop token
    kept: int  # how many last positions of a text are compared
    logits: list["torch.Tensor"]
    base_logits: list["torch.Tensor"]  # the same texts, read by the base without the adapter
    effect: float
    spread: float

    @property
    def read(self) -> list[list[int]]:
        """The texts whose logits are compared: each prompt with its answer."""
        return [prompt + answer for prompt, answer in zip(self.encoded, self.answers, strict=True)]

    @property
    def vocabulary(self) -> int:
        """How many logits each position has."""
        return self.logits[0].shape[-1]


@dataclass(frozen=True)
class Heard:
    """What one artifact says to the same texts; the fields are those of `Trained`."""

    ids: Sequence[list[int] | None]  # None: left out
    rendered: list[str | None]
    stops: frozenset[int]
    eos: int | None
    answers: list[list[int]]
    logits: list["torch.Tensor"]


def ask_trained(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, texts: Sequence[str], options: Mapping[str, Any],
    max_new_tokens: int,
) -> Trained:  # fmt: skip
    """Ask the trained model, with its adapter and without.

    Raises:
        LessonError: an adapter that changes nothing; and those of `evaluation.answers`.
    """
    encoded = prompt_ids(tokenizer, prompts)
    answers = continuations(model, tokenizer, prompts, max_new_tokens=max_new_tokens)
    read = [prompt + answer for prompt, answer in zip(encoded, answers, strict=True)]
    kept = KEPT + max_new_tokens
    logits = logits_of(model, read, kept)
    with model.disable_adapter():
        base_logits = logits_of(model, read, kept)
    effect = _mean([divergence(ours, base) for ours, base in zip(logits, base_logits, strict=True)])
    if effect == 0:
        raise LessonError(
            "The adapter has no effect: the trained model and its base give the same logits, so it cannot "
            "be told which of them was exported. Check that trainer.train() ran to its end.",
        )
    rendered = render(tokenizer, options)
    chats = [*prompts, *(chat for chat in rendered if chat is not None)]
    return Trained(
        tokenizer=tokenizer, options=options, texts=list(texts), chats=chats,
        ids=token_ids(tokenizer, texts, chats), rendered=rendered,
        stops=frozenset(stop_ids(model.get_base_model().generation_config, tokenizer)), prompts=prompts,
        encoded=encoded, answers=answers, kept=kept, logits=logits, base_logits=base_logits,
        effect=effect, spread=_mean([each.std(-1) for each in logits]),
    )  # fmt: skip


def compared(row: Row, trained: Trained, heard: Heard) -> Row:
    """The row with all that was measured."""
    import torch

    texts = [*trained.texts, *trained.chats]
    control = {at for at, token in trained.tokenizer.added_tokens_decoder.items() if token.special}
    asked = [(at, ids) for at, ids in enumerate(heard.ids) if ids is not None]
    wrong = [(at, ids) for at, ids in asked if ids != trained.ids[at]]
    odd = [at for at, chat in enumerate(heard.rendered) if chat != trained.rendered[at]]
    pairs = list(zip(trained.logits, heard.logits, strict=True))
    base_pairs = zip(trained.base_logits, heard.logits, strict=True)
    apart = [(ours - theirs).abs() for ours, theirs in pairs]
    worst = torch.cat([each.max(-1).values for each in apart])  # (positions of all texts,)
    agreed = [(ours.argmax(-1) == theirs.argmax(-1)).double() for ours, theirs in pairs]
    return replace(
        row,
        texts=len(asked),
        wrong_texts=len(wrong),
        first_wrong=next(((texts[at], trained.ids[at], ids) for at, ids in wrong), None),
        conversations=len(trained.rendered),
        wrong_conversations=len(odd),
        first_rendered=_parting(heard.rendered[odd[0]], trained.rendered[odd[0]]) if odd else None,
        stops=heard.stops,
        # llama.cpp also stops at control tokens that it knows by name (SmolLM2's "<reponame>", for one).
        wanted_stops=trained.stops | (heard.stops & control - {heard.eos}),
        eos=heard.eos,
        wanted_eos=trained.tokenizer.eos_token_id,
        positions=len(worst),
        usual_difference=worst.quantile(USUAL).item(),
        max_difference=worst.max().item(),
        mean_difference=_mean([each.mean(-1) for each in apart]),
        spread=trained.spread,
        top1=_mean(agreed),
        kl=_mean([divergence(ours, theirs) for ours, theirs in pairs]),
        kl_base=_mean([divergence(base, theirs) for base, theirs in base_pairs]),
        prompts=len(trained.answers),
        greedy_equal=sum(own == answer for own, answer in zip(heard.answers, trained.answers, strict=True)),
        greedy_broken=0 if row.tolerance is None else _broken(trained, heard, row.tolerance),
    )


def _broken(trained: Trained, heard: Heard, tolerance: float) -> int:
    """How many answers part where the trained model's best token led by more than rounding can turn."""
    import torch

    broken = 0
    for answer, own, logits in zip(trained.answers, heard.answers, trained.logits, strict=True):
        if own == answer:
            continue
        parted = len(os.path.commonprefix([own, answer]))
        # The last row follows the whole answer; the one that chose answer[parted] stands as far before it.
        best, second = torch.topk(logits[parted - len(answer) - 1], 2).values.tolist()
        broken += best - second > 2 * OUTLIER * tolerance
    return broken


def token_ids(tokenizer: Any, texts: Sequence[str], chats: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts, then of rendered chats, whose BOS the template has written already."""
    bos = tokenizer.bos_token
    plain = tokenizer(list(texts))["input_ids"] if texts else []
    return plain + [
        tokenizer(chat, add_special_tokens=not (bos and chat.startswith(bos)))["input_ids"] for chat in chats
    ]


def render(tokenizer: Any, options: Mapping[str, Any]) -> list[str | None]:
    """The conversations as a tokenizer's chat template writes them; None: it has none, or it refuses."""
    found: list[str | None] = []
    for messages, ask in conversations():
        try:
            chat = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=ask, **options
            )
        except Exception:  # a template may raise what it likes
            chat = None
        found.append(chat)
    return found


def logits_of(model: Any, texts: Sequence[list[int]], kept: int) -> list["torch.Tensor"]:
    """Logits at the last positions of each text, in float32 on the CPU: (at most kept, vocabulary)."""
    import torch

    with inference(model):
        return [
            model(torch.tensor([ids], device=model.device), use_cache=False, logits_to_keep=kept)
            .logits[0, -kept:].float().cpu()
            for ids in texts
        ]  # fmt: skip


def _mean(each: Sequence["torch.Tensor"]) -> float:
    """The mean over all positions of all texts."""
    import torch

    return torch.cat(list(each)).double().mean().item()


def _parting(here: str | None, there: str | None) -> tuple[str | None, str | None]:
    """Two texts from a little before the place where they part."""
    if here is None or there is None:
        return here, there
    at = max(0, len(os.path.commonprefix([here, there])) - BEFORE)
    return here[at:], there[at:]
