"""Lesson 03's exercises 4 and 5, on the exported files: how far two models are apart, how large q8_0 is."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.runtime._language import Translated

if TYPE_CHECKING:
    from torch import Tensor


# 4. How far two models are apart --------------------------------------------------------------------------


def solve_kl(first_logits: "Tensor", second_logits: "Tensor") -> float:
    """Mean over the positions of KL(p || q), in nats."""
    log_p = first_logits.float().log_softmax(dim=-1)  # log_softmax never exponentiates a large number
    log_q = second_logits.float().log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean().item()


def _judge_kl(kl: Callable[["Tensor", "Tensor"], Any]) -> None:
    import torch

    draw = torch.Generator().manual_seed(3)
    first, second = (2 * torch.randn(5, 7, generator=draw) for _ in range(2))
    got, want = _number(kl(first.clone(), second.clone()), first), solve_kl(first, second)
    if not _close(got, want):
        _judge_value(first, second, got, want)
    gap = torch.tensor([[0.0, 200.0, -200.0], [150.0, 0.0, 10.0]])
    for one, other in ((first + 1000, second + 1000), (gap, -gap)):
        got, want = _number(kl(one.clone(), other.clone()), one), solve_kl(one, other)
        if not math.isfinite(got):
            raise Wrong(
                "With large logits the function gives {got}: exp overflows, or log(0). Use log_softmax.",
                got=got,
            )
        if not _close(got, want):
            raise Wrong(
                "With large logits KL is {want:.4g}, you have {got:.4g}. An epsilon or a clamp in the "
                "logarithm loses the largest part: use log_softmax.",
                want=want, got=got,
            )


def _number(given: Any, logits: "Tensor") -> float:
    """The learner's answer as one number."""
    import torch

    shape = tuple(given.shape) if isinstance(given, torch.Tensor) else ()
    if math.prod(shape) == 1:
        return float(given)
    if shape == tuple(logits.shape[:1]):
        raise Wrong("That is KL position by position. Take the average: .mean().")
    raise Wrong(
        "One number is wanted, you returned a tensor {shape}. Sum over the vocabulary (dim=-1), then take "
        "the mean.",
        shape=shape,
    )


def _judge_value(first: "Tensor", second: "Tensor", got: float, want: float) -> None:
    log_p, log_q = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    p, q = log_p.exp(), log_q.exp()
    column_p, column_q = first.log_softmax(dim=0), second.log_softmax(dim=0)
    positions, vocabulary = first.shape
    columns = (column_p.exp() * (column_p - column_q)).sum()

    def mean(each: "Tensor") -> float:
        return each.sum(dim=-1).mean().item()

    mistakes: tuple[tuple[tuple[float, ...], Translated], ...] = (
        (
            (solve_kl(second, first),),
            Translated(
                "That is KL(q||p), the other way round. Average by p, the first model's distribution.",
            ),
        ),
        (
            (want * positions,),
            Translated(
                "That is the sum over positions. Only the mean lets you compare texts of different length.",
            ),
        ),
        (
            (want / vocabulary,),
            Translated(
                "You divided by the vocabulary too (kl_div's reduction='mean' does). Divide by the "
                "positions only: 'batchmean'.",
            ),
        ),
        (
            (want / math.log(2),),
            Translated("The result is in bits (log2). Nats are asked for: natural logarithms."),
        ),
        ((-want,), Translated("Wrong sign: KL is never negative.")),
        (
            (mean(-p * log_q),),
            Translated("That is the cross-entropy. KL is it minus the entropy of p: use log p - log q."),
        ),
        (
            (mean(first.exp() * (first - second)), mean(p * (first - second))),
            Translated(
                "Logits are not log-probabilities: a softmax is missing. Pass them through log_softmax.",
            ),
        ),
        (
            (mean(p * (log_p - q)),),
            Translated("kl_div's first argument has to be log-probabilities: log_softmax and not softmax."),
        ),
        (
            (columns.item() / positions, columns.item() / vocabulary),
            Translated("The softmax runs over the vocabulary: dim=-1 and not dim=0."),
        ),
    )
    for values, message in mistakes:
        if any(_close(got, value) for value in values):
            raise Wrong(message)
    if not math.isfinite(got):
        raise Wrong(
            "The function gives {got}: logits may be negative and have no log. A softmax is missing.",
            got=got,
        )
    raise Wrong("On the logits of the test KL is {want:.4f}, you gave {got:.4f}.", want=want, got=got)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-6)


kl = Exercise(
    title=Translated("Exercise 5. The mean KL(p||q) between two models, from logits, without overflow."),
    judge=_judge_kl,
    hints=(
        Translated("`KL(p||q) = sum p * (log p - log q)` over the vocabulary, then the mean over positions."),
        Translated(
            "`torch.log_softmax(logits, dim=-1)` gives log p with no exp of a large number; p is its exp.",
        ),
    ),
    solve=solve_kl,
    praise=Translated(
        "Top-1 only asks which token is first; KL asks how far the whole distribution has moved.",
    ),
    start=unwritten,
)


# 5. The size of a q8_0 tensor -----------------------------------------------------------------------------


def solve_q8_bytes(rows: int, columns: int) -> int:
    """Bytes of a matrix in q8_0."""
    blocks = rows * columns // 32
    return blocks * (32 * 1 + 2)  # 32 int8 and one fp16 scale


_Q8_MISTAKES: tuple[tuple[Callable[[int, int], float], Translated], ...] = (
    (
        lambda rows, columns: rows * columns,
        Translated("That is the int8 numbers alone. Each block of 32 has an fp16 scale too: 2 bytes more."),
    ),
    (
        lambda rows, columns: rows * columns // 32 * 36,
        Translated("The scale of q8_0 is fp16 (2 bytes) and not fp32."),
    ),
    (
        lambda rows, columns: rows * columns // 32 * 33,
        Translated("An fp16 scale takes 2 bytes and not 1."),
    ),
    (
        lambda rows, columns: rows * columns + 2 * rows,
        Translated("You count one scale a row. q8_0 has one for each block of 32 weights."),
    ),
    (
        lambda rows, columns: rows * columns // 32 * 34 * 8,
        Translated("Those are bits. The question is in bytes: divide by 8."),
    ),
    (
        lambda rows, columns: rows * columns * 2,
        Translated("2 bytes a weight is f16. q8_0 keeps a weight in 1 byte, plus the scale of its block."),
    ),
    (
        lambda rows, columns: rows * columns // 32,
        Translated("That is the number of blocks. How many bytes does each take?"),
    ),
)


def _judge_q8_bytes(q8_bytes: Callable[[int, int], float]) -> None:
    shapes = ((3072, 3072), (1, 32), (256, 2048))
    answers = [q8_bytes(*shape) for shape in shapes]
    if answers == [solve_q8_bytes(*shape) for shape in shapes]:
        return
    for mistake, message in _Q8_MISTAKES:
        if answers == [mistake(*shape) for shape in shapes]:
            raise Wrong(message)
    for (rows, columns), got in zip(shapes, answers, strict=True):
        if got != (want := solve_q8_bytes(rows, columns)):
            raise Wrong(
                "{rows} x {columns} is {rows2} times 32 weights and takes {want} bytes; you gave {got}.",
                rows=rows, columns=columns, rows2=rows * columns // 32, want=want, got=got,
            )


q8_bytes = Exercise(
    title=Translated("Exercise 4. How many bytes does a matrix of rows x columns take in q8_0?"),
    judge=_judge_q8_bytes,
    hints=(
        Translated("A block is 32 weights: 32 numbers of int8 and one fp16 scale that they share."),
        Translated("int8 is 1 byte, fp16 is 2: 34 bytes a block. How many blocks are there?"),
    ),
    solve=solve_q8_bytes,
    praise=Translated(
        "34 bytes for 32 weights are 8.5 bits and not 8. q4_k: 144 bytes for 256 weights, 4.5 bits and not "
        "4.",
    ),
    start=unwritten,
)
