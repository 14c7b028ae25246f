"""Lesson 04's exercises 3 and 4: what an adapter with new tokens weighs, and labels around tool calls."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.exercises._label_mistakes import check_count, check_mask, check_shift
from lessonlib.runtime._language import Translated

# 3. What the adapter weighs -------------------------------------------------------------------------------


def solve_adapter_size(vocabulary: int, hidden: int, lora: int, new_tokens: int) -> tuple[int, int]:
    """Bytes of an adapter with both tables saved whole, and with the new tokens' rows instead."""
    factors = 4 * lora  # LoRA's A and B are kept in fp32
    tables = 2 * vocabulary * hidden  # embed_tokens and lm_head
    rows = new_tokens * hidden  # learnt once: lm_head is tied to embed_tokens
    return factors + 2 * tables, factors + 4 * rows


_SHEETS = ((256_000, 2_304, 20_766_720, 8), (1_000, 10, 50, 3))

# What another calculation gives, as (mistake, message).
_SIZES: tuple[tuple[Callable[[int, int, int, int], tuple[float, float]], Translated], ...] = (
    (
        lambda v, h, lora, n: (4 * lora + 4 * n * h, 4 * lora + 4 * v * h),
        Translated("The two are swapped: first the size with whole tables, then with the new rows only."),
    ),
    (
        lambda v, h, lora, n: (4 * lora + 4 * n * h, 4 * lora + 2 * 2 * v * h),
        Translated("The two are swapped: first the size with whole tables, then with the new rows only."),
    ),
    (
        lambda v, h, lora, n: (2 * 2 * v * h, 4 * n * h),
        Translated("LoRA itself is missing: both ways keep its A and B too."),
    ),
    (
        lambda v, h, lora, n: (4 * lora + 2 * v * h, 4 * lora + 4 * n * h),
        Translated(
            "You count one table. The model shares one between the two, but peft writes both into the file.",
        ),
    ),
    (
        lambda v, h, lora, n: (4 * lora + 4 * 2 * v * h, 4 * lora + 4 * n * h),
        Translated("The two large tables are kept in bf16 as in the base model: 2 bytes a number and not 4."),
    ),
    (
        lambda v, h, lora, n: (2 * lora + 2 * 2 * v * h, 2 * lora + 2 * n * h),
        Translated("What is trained (LoRA and the new rows) is kept in fp32: 4 bytes a number."),
    ),
    (
        lambda v, h, lora, n: (4 * lora + 2 * 2 * v * h, 4 * lora + 2 * n * h),
        Translated("The new rows are trained, and so they are kept in fp32: 4 bytes a number."),
    ),
    (
        lambda v, h, lora, n: (4 * lora + 2 * 2 * v * h, 4 * lora + 2 * 4 * n * h),
        Translated(
            "There is one copy of the new rows: lm_head shares them with embed_tokens, and peft keeps them "
            "once.",
        ),
    ),
    (
        lambda v, h, lora, n: (4 * lora + 2 * 2 * v * h, 4 * lora + 4 * n),
        Translated("Each new token is a row of `hidden` numbers and not one number."),
    ),
    (
        lambda v, h, lora, n: (lora + 2 * v * h, lora + n * h),
        Translated("Those are numbers of weights. The question is in bytes."),
    ),
)


def _judge_adapter_size(adapter_size: Callable[[int, int, int, int], Any]) -> None:
    answers = []
    for sheet in _SHEETS:
        got = adapter_size(*sheet)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong("Return two numbers: (size with both tables whole, size with the new rows only).")
        answers.append(tuple(got))
    wanted = [solve_adapter_size(*sheet) for sheet in _SHEETS]
    if answers == wanted:
        return
    for mistake, message in _SIZES:
        if answers == [mistake(*sheet) for sheet in _SHEETS]:
            raise Wrong(message)
    for sheet, got, want in zip(_SHEETS, answers, wanted, strict=True):
        for which, way in enumerate((Translated("Whole tables"), Translated("New rows"))):
            if got[which] != want[which]:
                raise Wrong(
                    "{way}, for (vocabulary, hidden, lora, new_tokens) = {sheet}: {want} bytes; you gave "
                    "{got}.",
                    way=way, sheet=sheet, want=want[which], got=got[which],
                )


adapter_size = Exercise(
    title=Translated(
        "Exercise 3. How many bytes does an adapter with a few new tokens take, kept either way?",
    ),
    judge=_judge_adapter_size,
    hints=(
        Translated(
            "An embedding table has `vocabulary` rows of `hidden` numbers. Two tables: embed_tokens and "
            "lm_head.",
        ),
        Translated("fp32 is 4 bytes (LoRA, the new rows), bf16 is 2 bytes (both tables, kept whole)."),
    ),
    solve=solve_adapter_size,
    praise=Translated(
        "For Gemma 2 2B: 2.44 GB against 83 MB, and the eight new tokens are only 74 kB of it. The original "
        "weighs 2.48 GB, as it put LoRA on the two tables as well.",
    ),
    start=unwritten,
)


# 4. Labels of a conversation with tools -------------------------------------------------------------------

Turns = list[tuple[str, list[int]]]


def solve_labels(turns: Turns, header: Sequence[int]) -> list[int]:
    """-100 but for what the assistant writes, in every turn of its own, end token included."""
    labels: list[int] = []
    for role, ids in turns:
        given = len(header) if role == "assistant" else len(ids)
        labels += [-100] * given + ids[given:]
    return labels


# Gemma's ids: <start_of_turn> 106, <end_of_turn> 107, a line break 108, "model" 2516, "user" 1645.
_HEADER, _END = [106, 2516, 108], [107, 108]
_USER = [106, 1645, 108]
_DIALOGUES: tuple[Turns, ...] = (
    [
        ("user", [2, *_USER, 701, 702, 703, 11, 12, *_END]),  # BOS, <tools>…</tools>, the request
        ("assistant", [*_HEADER, 711, 21, 712, 22, 23, *_END]),  # a thought, a call
        ("tool", [*_USER, 721, 31, 32, 722, *_END]),  # a result, in a turn that Gemma calls user
        ("assistant", [*_HEADER, 41, 42, *_END]),
    ],
    [
        ("user", [2, *_USER, 13, *_END]),
        ("assistant", [106, 9, 9, 108, 51, *_END]),
        ("tool", [*_USER, 33, *_END]),
        ("tool", [*_USER, 34, *_END]),
        ("assistant", [106, 9, 9, 108, 52, 53, *_END]),
        ("user", [*_USER, 14, *_END]),
        ("assistant", [106, 9, 9, 108, 54, *_END]),
    ],
)


def _judge_labels(labels: Callable[[Turns, list[int]], Any]) -> None:
    for turns, header in zip(_DIALOGUES, (_HEADER, [106, 9, 9, 108]), strict=True):
        got, want = labels(deepcopy(turns), list(header)), solve_labels(turns, header)
        if not isinstance(got, list | tuple) or any(isinstance(label, list | tuple) for label in got):
            raise Wrong("One flat list is wanted, a label for each token: `+=` and not `append`.")
        got = list(got)
        if got == want:
            continue
        check_count(got, len(want))
        check_shift(got, want)
        check_mask(got)
        _judge_turns(turns, len(header), got)
        raise Wrong("They should be {want}, you gave {got}.", want=want, got=got)


def _judge_turns(turns: Turns, header: int, labels: list[int]) -> None:
    start = 0
    for number, (role, ids) in enumerate(turns):
        mine = labels[start : start + len(ids)]
        learnt = [label for label in mine if label != -100]
        if role == "tool" and learnt:
            raise Wrong(
                "A tool response (turn {number}) carries loss: the model would learn to make results up "
                "instead of waiting for them.",
                number=number,
            )
        if role == "user" and learnt:
            raise Wrong(
                "User turn {number} carries loss, the tools' schemas included: the model has not to write "
                "those.",
                number=number,
            )
        if role == "assistant" and not learnt:
            raise Wrong(
                "The assistant's turn {number} carries no loss. Each of its turns is to be learnt: the "
                "calls and the final reply.",
                number=number,
            )
        if role == "assistant" and mine[:header] != [-100] * header:
            raise Wrong(
                "The opening of turn {number} (positions {start} to {start2}) carries loss. A prompt ends "
                "in it: nothing to learn.",
                number=number, start=start, start2=start + header - 1,
            )
        if role == "assistant" and mine[-2] == -100:
            raise Wrong(
                "<end_of_turn> of turn {number} is masked: the model would not know to stop after the call.",
                number=number,
            )
        start += len(ids)


labels = Exercise(
    title=Translated(
        "Exercise 4. Labels for a conversation with tools: loss on what the model writes itself, no more.",
    ),
    judge=_judge_labels,
    hints=(
        Translated(
            "Who writes the turn? Only `assistant` is the model; turns of `user` and `tool` are all -100.",
        ),
        Translated("A turn of the assistant: `[-100] * len(header) + ids[len(header):]`. Build up one list."),
    ),
    solve=solve_labels,
    praise=Translated(
        "The model learns to think, call, stop and reply. Schemas, questions and results it only reads.",
    ),
    start=unwritten,
)
