"""The exercises of lesson 01 (BLOOM-560m): LoRA's factor and size, a bad loss, padding, prompt, epochs.

Each judge raises `Wrong` with a message for the mistake that learners really make; each `solve_*` is what the
lesson shows as the solution and what the tests run.
"""

import math
from collections.abc import Callable, Sequence

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.runtime._language import Translated

# 1. The factor alpha / r ----------------------------------------------------------------------------------


def solve_scale() -> float:
    """The alpha that keeps alpha / r."""
    factor = 32 / 8  # the article: alpha / r = 4
    return factor * 16  # the same factor at r = 16


def _judge_scale(alpha: float) -> None:
    if alpha == 32:
        raise Wrong(
            "With alpha still 32 the factor at r = 16 is only 32/16 = 2. The task is to keep the article's "
            "factor.",
        )
    if alpha in (4, 2):
        raise Wrong("{alpha} is the factor alpha/r; the question asks for alpha.", alpha=alpha)
    if not math.isclose(alpha, solve_scale()):
        raise Wrong(
            "alpha = {alpha} gives a factor of {alpha2:g} at r = 16; the article has 32/8 = 4.",
            alpha=alpha, alpha2=alpha / 16,
        )


scale = Exercise(
    title=Translated(
        "Exercise 1. Choose alpha at r = 16 so that B·A is still multiplied by the article's factor.",
    ),
    judge=_judge_scale,
    hints=(
        Translated("LoRA multiplies `B·A` by `alpha / r`."),
        Translated("The article: 32 / 8 = 4. What divided by 16 is 4 as well?"),
    ),
    solve=solve_scale,
    praise=Translated("Whenever you change r, compute alpha/r again: it acts like a second learning rate."),
)


# 2. How many parameters LoRA adds -------------------------------------------------------------------------


def solve_count(inputs: int, outputs: int, r: int) -> int:
    """Parameters of the two matrices that LoRA adds."""
    return r * inputs + outputs * r  # A is (r, inputs), B is (outputs, r)


def _judge_count(count: Callable[[int, int, int], int]) -> None:
    for inputs, outputs, r in ((1024, 3072, 8), (16, 16, 4), (1000, 10, 1)):
        got, want = count(inputs, outputs, r), solve_count(inputs, outputs, r)
        if got == want:
            continue
        if got == inputs * outputs:
            raise Wrong(
                "{got:,} is the size of W. LoRA adds two narrow matrices, not another one as large as W.",
                got=got,
            )
        if got in (r * inputs, r * outputs):
            raise Wrong("You have counted only one of the two matrices A and B.")
        raise Wrong(
            "For inputs={inputs}, outputs={outputs}, r={r} your function gives {got}; it should be {want:,}.",
            inputs=inputs, outputs=outputs, r=r, got=got, want=want,
        )


count = Exercise(
    title=Translated(
        "Exercise 2. How many parameters does LoRA of rank r add to a linear layer inputs -> outputs?",
    ),
    judge=_judge_count,
    hints=(
        Translated("A has the shape `(r, inputs)`, B the shape `(outputs, r)`."),
    ),
    solve=solve_count,
    praise=Translated(
        "query_key_value of BLOOM-560m is 1024 -> 3072: 32,768 parameters a layer, 786,432 in 24.",
    ),
    start=unwritten,
)


# 3. Worse than a uniform guess ----------------------------------------------------------------------------


def solve_uniform(first_loss: float, vocabulary: int) -> bool:
    """Whether a loss is above that of a uniform guess."""
    return first_loss > math.log(vocabulary)


def _judge_uniform(suspicious: Callable[[float, int], bool]) -> None:
    cases = (
        (12.9, 128_256), (13.34, 250_880), (3.1, 250_880), (7.5, 1024),
        (6.5, 1024), (11.0, 128_256), (18.0, 128_256),
    )
    answers = [bool(suspicious(*case)) for case in cases]
    if answers == [solve_uniform(*case) for case in cases]:
        return
    for log, name in ((math.log2, "log2"), (math.log10, "log10")):
        if answers == [loss > log(vocabulary) for loss, vocabulary in cases]:
            raise Wrong(
                "You used {name}. PyTorch's cross-entropy is in natural logarithms: math.log.", name=name,
            )
    for (loss, vocabulary), answer in zip(cases, answers, strict=True):
        if answer != solve_uniform(loss, vocabulary):
            raise Wrong(
                "Wrong at loss={loss}, vocabulary {vocabulary:,}: a uniform guess has a loss of {math:.2f}.",
                loss=loss, vocabulary=vocabulary, math=math.log(vocabulary),
            )


uniform = Exercise(
    title=Translated("Exercise 3. Write the alarm: the first loss is worse than a uniform guess."),
    judge=_judge_uniform,
    hints=(
        Translated("A uniform guess gives each token the probability 1/V. Its loss is `-ln(1/V)`."),
        Translated("`-ln(1/V) = ln(V)`, that is `math.log(V)`."),
    ),
    solve=solve_uniform,
    praise=Translated("This is the cheapest check of the trade: one line, right after the first step."),
    start=unwritten,
)


# 4. The padding mistake -----------------------------------------------------------------------------------


def solve_padding(ids: list[int], length: int) -> list[int]:
    """Labels of one padded row."""
    return ids[:length] + [-100] * (len(ids) - length)  # by position, not by value: filling may be </s>


def _judge_padding(labels_for: Callable[[list[int], int], Sequence[int]]) -> None:
    rows = (
        ([7, 8, 9, 2, 3, 3, 3], 4),  # filled with <pad>
        ([7, 8, 9, 2, 2, 2, 2], 4),  # filled with </s>: pad_token = eos_token
        ([7, 2, 9, 2], 4),  # nothing to fill
    )
    for ids, length in rows:
        got = list(labels_for(list(ids), length))
        if got == solve_padding(ids, length):
            continue
        if len(got) != len(ids):
            raise Wrong(
                "Labels are as long as the row: {count} items, your function gave {count2}.",
                count=len(ids), count2=len(got),
            )
        if any(label != -100 for label in got[length:]):
            raise Wrong(
                "For {ids} the filling (from position {length}) still carries loss: the article's own "
                "mistake.",
                ids=ids, length=length,
            )
        if got[length - 1] == -100 and ids[length - 1] == 2:
            raise Wrong(
                "For {ids} the real </s> at position {length} is masked: the model will never learn to stop.",
                ids=ids, length=length - 1,
            )
        raise Wrong(
            "For {ids} and length={length} the labels should be {ids2}, you gave {got}.",
            ids=ids, length=length, ids2=solve_padding(ids, length), got=got,
        )


padding = Exercise(
    title=Translated(
        "Exercise 4 (break it, mend it). Mask the filling, keep the real </s>, even if the filling is </s> "
        "too.",
    ),
    judge=_judge_padding,
    hints=(
        Translated("Masking by value (`id == pad_id`) cannot tell the real </s> from one used as filling."),
        Translated("Mask by position: the first `length` tokens are real, the rest is filling."),
    ),
    solve=solve_padding,
    praise=Translated("Masked by position, no choice of padding token can spoil the labels."),
    start=unwritten,
)


# 5. The prompt for asking ---------------------------------------------------------------------------------


def solve_prompt(question: str) -> str:
    """The text that the model is given."""
    return f"Human: {question} Assistant:"  # no space at the end: it belongs to the answer's first token


def _judge_prompt(asking_prompt: Callable[[str], str]) -> None:
    question = "Token là gì?"
    got, want = asking_prompt(question), solve_prompt(question)
    if not isinstance(got, str):
        raise Wrong("The function should return a string, you returned {name}.", name=type(got).__name__)
    if got == want:
        return
    if got.rstrip() == want:
        raise Wrong(
            "There is a space at the end: it becomes a token of its own, unlike in training. The article's "
            "mistake.",
        )
    if question not in got:
        raise Wrong(
            "The question is missing in {got!r}. Did you forget the f in front of the quotes?", got=got,
        )
    raise Wrong("You returned {got!r}; the training text starts with {want!r}.", got=got, want=want)


prompt = Exercise(
    title=Translated(
        "Exercise 5. Write the prompt for asking so that it matches the training text token by token.",
    ),
    judge=_judge_prompt,
    hints=(
        Translated(
            "The training text: `Human: {question} Assistant: {answer}</s>`. Whose is the space before the "
            "answer?",
        ),
    ),
    solve=solve_prompt,
    praise=Translated("The prompt ends at the colon; the space is the model's job."),
    start=unwritten,
)


# 6. Steps and epochs --------------------------------------------------------------------------------------


def solve_epoch(rows: int, batch: int, accumulation: int, max_steps: int) -> tuple[int, float]:
    """Updates in an epoch, and the epoch after max_steps of them."""
    updates = math.ceil(math.ceil(rows / batch) / accumulation)  # the last update of an epoch may be smaller
    return updates, max_steps * batch * accumulation / rows


def _judge_epoch(epoch_reached: Callable[[int, int, int, int], tuple[int, float]]) -> None:
    for case in ((216, 2, 8, 10), (216, 8, 1, 540), (100, 4, 8, 2)):
        got = epoch_reached(*case)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong("Return two numbers: (updates per epoch, epoch reached).")
        want = solve_epoch(*case)
        if got[0] == math.ceil(case[0] / case[1]) != want[0]:
            raise Wrong(
                "{got} is the number of batches per epoch. One update comes after {case} of them.",
                got=got[0], case=case[2],
            )
        if got[0] != want[0]:
            raise Wrong(
                "For {case} one epoch takes {want} updates (rounded up), you gave {got}.",
                case=case, want=want[0], got=got[0],
            )
        if not math.isclose(got[1], want[1], abs_tol=0.01):
            raise Wrong(
                "For {case} the run stops at epoch {want:.2f}, you gave {got}.",
                case=case, want=want[1], got=got[1],
            )


epoch = Exercise(
    title=Translated("Exercise 6. Return (updates per epoch, the epoch reached when max_steps is over)."),
    judge=_judge_epoch,
    hints=(
        Translated("One update uses `batch * accumulation` rows."),
        Translated("The epoch reached is rows used divided by rows in the set: 160 / 216 in the article."),
    ),
    solve=solve_epoch,
    praise=Translated("The article stops at epoch 0.74: more than a quarter of the data was never seen."),
    start=unwritten,
)

ALL = (scale, count, uniform, padding, prompt, epoch)
