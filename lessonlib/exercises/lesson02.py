"""The exercises of lesson 02 (Phi-3): LoRA's factors, fused layers, rank, labels of a conversation, 4 bits.

Each judge raises `Wrong` with a message for the mistake that learners really make; each `solve_*` is what the
lesson shows as the solution and what the tests run.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.exercises._label_mistakes import check_count, check_shift
from lessonlib.runtime._language import Translated

if TYPE_CHECKING:
    from torch import Tensor


# 1. An update of rank r is A and B ------------------------------------------------------------------------


def solve_factors(delta: "Tensor", r: int, alpha: float) -> "tuple[Tensor, Tensor]":
    """A (r, in) and B (out, r) with (alpha / r) * B @ A = delta."""
    import torch

    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)  # (out, k), (k,), (k, in) with k = min(out, in)
    A = Vh[:r]
    B = U[:, :r] * S[:r] * (r / alpha)  # columns of U times singular values, over LoRA's own factor
    return A, B


def _judge_factors(factors: Callable[["Tensor", int, float], Any]) -> None:
    for outputs, inputs, r, alpha in ((6, 4, 2, 8.0), (5, 9, 3, 1.0)):
        U, S, Vh = _parts(outputs, inputs, r)
        delta = U * S @ Vh
        A, B = _with_shapes(factors(delta.clone(), r, alpha), outputs, inputs, r)
        product = B @ A
        if _close(product * (alpha / r), delta):
            continue
        if _close(product, delta):
            raise Wrong(
                "B @ A is delta already, but LoRA multiplies by alpha / r. Divide A or B by that factor.",
            )
        if _close(product, delta * (alpha / r)):
            raise Wrong(
                "You multiplied by alpha / r. LoRA does that once itself, so here you have to divide.",
            )
        if _parallel(product, U @ Vh):
            raise Wrong(
                "The singular values S are missing: that is U times Vh. Multiply S into one of the two.",
            )
        if _parallel(product, U * S**2 @ Vh):
            raise Wrong("The singular values S are used twice, in A and in B. Use them in one of the two.")
        raise Wrong(
            "For delta {outputs} x {inputs}, r={r}, alpha={alpha:g}: (alpha / r) * B @ A is not delta.",
            outputs=outputs, inputs=inputs, r=r, alpha=alpha,
        )


def _parts(outputs: int, inputs: int, r: int) -> "tuple[Tensor, Tensor, Tensor]":
    """U (out, r), S (r,) and Vh (r, in) of an update of rank r, the same at every call."""
    import torch

    draw = torch.Generator().manual_seed(r)
    U = torch.linalg.qr(torch.randn(outputs, r, generator=draw)).Q
    Vh = torch.linalg.qr(torch.randn(inputs, r, generator=draw)).Q.T
    return U, torch.tensor([4.0, 2.0, 0.5])[:r], Vh


def _with_shapes(given: Any, outputs: int, inputs: int, r: int) -> "tuple[Tensor, Tensor]":
    """The learner's A and B, if they are tensors (r, in) and (out, r)."""
    import torch

    if not isinstance(given, tuple | list) or [isinstance(x, torch.Tensor) for x in given] != [True, True]:
        raise Wrong("Return two tensors: return A, B.")
    a, b = [tuple(x.shape) for x in given]
    wanted, rank = [(r, inputs), (outputs, r)], min(outputs, inputs)
    if [a, b] == wanted:
        return given[0], given[1]
    if [b, a] == wanted:
        raise Wrong(
            "A and B are swapped: A takes x, so its shape is {wanted}, that of B is {wanted2}.",
            wanted=wanted[0], wanted2=wanted[1],
        )
    if [a, b] == [(rank, inputs), (outputs, rank)]:
        raise Wrong(
            "Your A and B have the full rank {rank}, not r={r}. Keep the first {r} singular values.",
            rank=rank, r=r,
        )
    if a == wanted[0][::-1] or b == wanted[1][::-1]:
        raise Wrong(
            "One is transposed: A has r rows {wanted}, B r columns {wanted2}; you gave {a}, {b}.",
            wanted=wanted[0], wanted2=wanted[1], a=a, b=b,
        )
    raise Wrong(
        "The shapes of A and B should be {wanted} and {wanted2}, you gave {a} and {b}.",
        wanted=wanted[0], wanted2=wanted[1], a=a, b=b,
    )


def _close(one: "Tensor", other: "Tensor") -> bool:
    """Equal to 1e-4 of their size."""
    return bool((one - other).norm() <= 1e-4 * other.norm())


def _parallel(one: "Tensor", other: "Tensor") -> bool:
    """Equal up to a positive factor."""
    return bool(one.norm() > 0) and _close(one / one.norm(), other / other.norm())


factors = Exercise(
    title=Translated(
        "Exercise 1. Find A and B so that (alpha / r) * B @ A is exactly a given update of rank r.",
    ),
    judge=_judge_factors,
    hints=(
        Translated(
            "The SVD writes delta as `U @ diag(S) @ Vh`. Rank r means that only the first r of S are not 0.",
        ),
        Translated(
            "The first r rows of Vh have the shape of A; the first r columns of U, times S, that of B. And "
            "the factor `alpha / r`?",
        ),
    ),
    solve=solve_factors,
    praise=Translated(
        "LoRA does not approximate an update of rank r: it can write every one exactly. What it cannot "
        "write is a higher rank.",
    ),
    start=unwritten,
)


# 2. Break-it lab: the fused layer -------------------------------------------------------------------------

_PHI3 = (
    "model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.qkv_proj",
    "model.layers.0.mlp.gate_up_proj", "model.layers.0.mlp.down_proj",
)  # fmt: skip
COOKBOOK = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def solve_missing(paths: Sequence[str], targets: Sequence[str]) -> list[str]:
    """The targets that no module path matches."""

    def matches(path: str, name: str) -> bool:
        return path == name or path.endswith("." + name)  # the dot: "gate_up_proj" is no "up_proj"

    return [name for name in targets if not any(matches(path, name) for path in paths)]


# Rules that are not peft's: rule(path, name), and what to say to it.
_RULES: tuple[tuple[Callable[[str, str], bool], Translated], ...] = (
    (
        lambda path, name: name in path,
        Translated("`name in path` matches any part: 'up_proj' is in 'gate_up_proj'. peft's rule does not."),
    ),
    (
        lambda path, name: path.endswith(name),
        Translated("The dot is missing: 'qkv_proj' ends in 'v_proj'. It takes path.endswith('.' + name)."),
    ),
)


def _judge_missing(missing: Callable[[list[str], list[str]], Any]) -> None:
    cases: tuple[tuple[Sequence[str], Sequence[str]], ...] = (
        (_PHI3, COOKBOOK),
        (_PHI3, ("mlp", "qkv", "down_proj")),  # parts of a path, but not its end
        (("proj", "net.fc1"), ("fc2", "fc1", "proj")),  # a path that is the name
        (_PHI3, ("self_attn.o_proj", "mlp.o_proj")),  # names of two parts
    )
    answers = [missing(list(paths), list(targets)) for paths, targets in cases]
    if not all(isinstance(answer, list | tuple) for answer in answers):
        raise Wrong(
            "Return a list (a set keeps no order), you returned {name}.", name=type(answers[0]).__name__,
        )
    answers, wanted = list(map(list, answers)), [solve_missing(*case) for case in cases]
    if answers == wanted:
        return
    if list(map(sorted, answers)) == list(map(sorted, wanted)):
        raise Wrong("The right names in another order: keep the order of targets.")
    if "o_proj" in answers[0] and "q_proj" not in answers[0]:
        raise Wrong("You return the names that match. The question is which match no path at all.")
    if "o_proj" in answers[0]:
        raise Wrong(
            "o_proj matches one layer, so it is not missing. A name is if no path matches it: use any.",
        )
    for rule, message in _RULES:
        if answers == [
            [name for name in targets if not any(rule(path, name) for path in paths)]
            for paths, targets in cases
        ]:
            raise Wrong(message)
    case, answer, want = next(each for each in zip(cases, answers, wanted, strict=True) if each[1] != each[2])
    raise Wrong(
        "For paths={case}, targets={case2}: it should be {want}, you gave {answer}.",
        case=list(case[0]), case2=list(case[1]), want=want, answer=answer,
    )


missing = Exercise(
    title=Translated(
        "Exercise 2 (break it, mend it). Write the check that peft lacks: which names match no layer?",
    ),
    judge=_judge_missing,
    hints=(
        Translated("peft's rule: `path == name or path.endswith('.' + name)`."),
        Translated(
            "A name is missing when `not any(...)` over all paths. Go through targets to keep their order.",
        ),
    ),
    solve=solve_missing,
    praise=Translated(
        "Five of the source's seven names match no layer of Phi-3. One line of checking before the training "
        "tells you.",
    ),
    start=unwritten,
)


# 3. A larger rank instead? --------------------------------------------------------------------------------


def solve_budget() -> int:
    """The rank at which two layers cost what four cost at rank 16."""
    sizes = {  # inputs + outputs: LoRA adds r times as many
        "qkv_proj": 3072 + 9216, "o_proj": 3072 + 3072,
        "gate_up_proj": 3072 + 16384, "down_proj": 8192 + 3072,
    }  # fmt: skip
    all_four = 16 * sum(sizes.values())  # 786,432 in each block
    return math.ceil(all_four / (sizes["o_proj"] + sizes["down_proj"]))


def _judge_budget(rank: float) -> None:
    if rank == solve_budget():
        return
    if 45 <= rank < 46:
        raise Wrong("Rank 45 gives 783,360 parameters in a block, 3,072 too few. Ranks are whole: round up.")
    if rank == 16:
        raise Wrong("Rank 16 again, but on two layers: 278,528 parameters in a block instead of 786,432.")
    if rank == 32:
        raise Wrong("Half of the layers is not half of the parameters: qkv_proj and gate_up_proj are wider.")
    if 52 <= rank <= 53:
        raise Wrong("You counted inputs * outputs, which is the size of W. LoRA adds r * (inputs + outputs).")
    got = f"{rank * 17_408:,.0f}"
    raise Wrong(
        "Rank {rank:g} gives {parameters} parameters; take the smallest that reaches 786,432.",
        rank=rank, parameters=Translated.of(vi=got.replace(",", "."), en=got),
    )


budget = Exercise(
    title=Translated(
        "Exercise 3. Which rank gives o_proj and down_proj alone what all four layers have at rank 16?",
    ),
    judge=_judge_budget,
    hints=(
        Translated("LoRA adds `r * (inputs + outputs)` to a layer (lesson 1, exercise 2)."),
        Translated("All four: 16 * (12288 + 6144 + 19456 + 11264). The two: r * (6144 + 11264)."),
    ),
    solve=solve_budget,
    praise=Translated(
        "As many parameters, but not the same work: qkv_proj and gate_up_proj stay as they are, whatever "
        "the rank.",
    ),
)


# 4. Labels of a conversation ------------------------------------------------------------------------------


def solve_labels(turns: Sequence[tuple[str, Sequence[int]]]) -> list[int]:
    """-100 but for what the assistant says, end token included."""
    labels: list[int] = []
    for role, ids in turns:
        if role == "assistant":
            labels += [-100, *ids[1:]]  # the role token is given, the end token is learnt
        else:
            labels += [-100] * len(ids)
    return labels


def _judge_labels(labels: Callable[[list[tuple[str, list[int]]]], Any]) -> None:
    system, user, assistant, end = 32006, 32010, 32001, 32007  # Phi-3's tokens
    first = [("user", [user, 11, 12, end]), ("assistant", [assistant, 21, 22, 23, end])]
    second = [("user", [user, 13, end]), ("assistant", [assistant, 31, end])]
    for turns in (first, [("system", [system, 5, end]), *first, *second]):
        got, want = list(labels([(role, list(ids)) for role, ids in turns])), solve_labels(turns)
        if got == want:
            continue
        if any(isinstance(label, list | tuple) for label in got):
            raise Wrong("That is a list of lists. One flat list is wanted: `+=` and not `append`.")
        check_count(got, len(want))
        check_shift(got, want)
        before = sum(len(ids) for _, ids in turns[:-1])
        if got == [-100] * before + want[before:]:
            raise Wrong("Only the assistant's last turn carries loss. Each of its turns is to be learnt.")
        _judge_turns(turns, got)
        raise Wrong("They should be {want}, you gave {got}.", want=want, got=got)


def _judge_turns(turns: list[tuple[str, list[int]]], labels: list[int]) -> None:
    start = 0
    for role, ids in turns:
        end = start + len(ids) - 1
        if role != "assistant" and labels[start : end + 1] != [-100] * len(ids):
            raise Wrong("A {role} turn carries loss: the model would learn to speak for others.", role=role)
        if role == "assistant" and labels[start] != -100:
            raise Wrong(
                "The role token (position {start}) carries loss. Prompts end in it: nothing to learn.",
                start=start,
            )
        if role == "assistant" and labels[end] == -100:
            raise Wrong(
                "The end token (position {end}) is masked: the model will never learn when to stop.", end=end,
            )
        start = end + 1


labels = Exercise(
    title=Translated(
        "Exercise 4. Write the labels of a conversation: the assistant's words and end tokens only.",
    ),
    judge=_judge_labels,
    hints=(
        Translated("Go through the turns and build up one list. The label -100 means no loss."),
        Translated("A turn of the assistant: `[-100, *ids[1:]]`. Any other: `[-100] * len(ids)`."),
    ),
    solve=solve_labels,
    praise=Translated(
        "Right to the token: the model learns what to say and when to stop, not to speak for others.",
    ),
    start=unwritten,
)


# 5. What a weight costs in 4 bits -------------------------------------------------------------------------


def solve_bits() -> float:
    """Bits for each weight in nf4 with double quantisation."""
    return 4 + 8 / 64 + 32 / (64 * 256)  # level, absmax of its block, scale of 256 absmax values


# Answers that a known mistake gives, and what to say to it.
_MISCOUNTED = (
    (
        4,
        Translated(
            "4 bits are the index of a level. To get the weight back one needs the block's absmax too.",
        ),
    ),
    (
        4 + 32 / 64,
        Translated(
            "4.5 is what it costs with absmax in fp32 (32/64). Double quantisation brings it to 8 bits.",
        ),
    ),
    (
        4 + 8 / 64,
        Translated("The second level is missing: there is one more fp32 number for 256 absmax values."),
    ),
    (
        4 + 8 / 64 + 32 / 256,
        Translated("The second fp32 number serves 256 blocks of 64 weights each: divide by 64 * 256."),
    ),
    (
        solve_bits() / 8,
        Translated("That is in bytes. The question is in bits: times 8."),
    ),
)


def _judge_bits(bits: float) -> None:
    if abs(bits - solve_bits()) <= 0.001:
        return
    for value, message in _MISCOUNTED:
        if abs(bits - value) <= 0.0009:
            raise Wrong(message)
    raise Wrong(
        "It is not {bits:g}. Add three parts to three decimals: level, absmax, scale of the absmax.",
        bits=bits,
    )


bits = Exercise(
    title=Translated("Exercise 5. How many bits does one weight take in nf4 with double quantisation?"),
    judge=_judge_bits,
    hints=(
        Translated("Of what n weights share, each weight bears one n-th."),
        Translated("4 bits, plus 8 bits over 64, plus 32 bits over (64 * 256)."),
    ),
    solve=solve_bits,
    praise=Translated(
        "Double quantisation saves 0.37 bits a weight: about 0.18 GB for 3.8 billion parameters.",
    ),
)


# 6. A block in 4 bits -------------------------------------------------------------------------------------


def solve_quantise(block: "Tensor", levels: "Tensor") -> "Tensor":
    """What is left of a block after 4 bits."""
    scale = block.abs().max()
    if scale == 0:
        return block.clone()  # nothing to scale: 0 / 0 would be NaN
    nearest = ((block / scale).unsqueeze(-1) - levels).abs().argmin(dim=-1)  # the 4 bits: 0 to 15
    return levels[nearest] * scale


def _judge_quantise(quantise: Callable[["Tensor", "Tensor"], Any]) -> None:
    import torch

    from lessonlib.models import _quantisation as quantisation

    levels = torch.tensor(quantisation.levels("nf4"))
    for numbers in (
        [0.5, -0.21, 0.05, 0.3, -0.4, 0.14],
        [0.02, -0.01, 0.03, 4.0, -0.02, 0.01],  # an outlier: all others become 0
        [-2.0, 0.5, 1.1, -0.3, 0.7, 0.1],  # the largest is negative
        [0.0] * 6,
    ):
        block = torch.tensor(numbers)
        got, want = quantise(block.clone(), levels.clone()), solve_quantise(block, levels)
        shape = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
        if shape != tuple(block.shape):
            raise Wrong(
                "Return a tensor of the block's shape {shape}, you returned {shape2}.",
                shape=tuple(block.shape), shape2=shape,
            )
        if not _same(got, want):
            _diagnose(block, levels, got, want)


def _diagnose(block: "Tensor", levels: "Tensor", got: "Tensor", want: "Tensor") -> None:
    import torch

    numbers, scale = _rounded(block), block.abs().max()
    if scale == 0:
        raise Wrong(
            "A block of zeros has to give zeros, you gave {got}: absmax is 0, and 0/0 is NaN.",
            got=_rounded(got),
        )
    if _same(got, want / scale):
        raise Wrong("The result is still between -1 and 1: you forgot to multiply by absmax again.")
    above = torch.bucketize(block / scale, levels)  # the first level that is not below the value
    below = (above - 1).clamp(min=0)
    if _same(got, torch.bucketize(want / scale - 1e-6, levels)):
        raise Wrong("Those are indices of levels, 0 to 15. Take levels[index] and multiply by absmax.")
    if (got.isclose(levels[above] * scale) | got.isclose(levels[below] * scale)).all():
        raise Wrong(
            "You take the next level above or below, as torch.bucketize does. Take the nearest: argmin.",
        )
    if _same(got, solve_quantise(block.clamp(min=-block.max()), levels)):  # what lies below -max becomes -max
        raise Wrong(
            "For {numbers} absmax is {scale:g} and not {block:g}: take absolute values first.",
            numbers=numbers, scale=scale, block=block.max(),
        )
    raise Wrong(
        "Of {numbers} there should be left {want}, you gave {got}.",
        numbers=numbers, want=_rounded(want), got=_rounded(got),
    )


def _same(one: "Tensor", other: "Tensor") -> bool:
    return bool(one.float().isclose(other.float(), rtol=1e-4, atol=1e-6).all())


def _rounded(tensor: "Tensor") -> list[float]:
    return [round(number, 3) for number in tensor.tolist()]


quantise = Exercise(
    title=Translated("Exercise 6. Quantise one block to 4 bits and bring it back: what is left?"),
    judge=_judge_quantise,
    hints=(
        Translated("Three steps: divide by absmax, take the nearest level, multiply by absmax."),
        Translated(
            "`(x.unsqueeze(-1) - levels).abs().argmin(dim=-1)` is the index of the nearest level. A block "
            "of zeros divides by 0.",
        ),
    ),
    solve=solve_quantise,
    praise=Translated(
        "Look at the block with the 4.0 again: its five other numbers became 0. That is why blocks are "
        "small.",
    ),
    start=unwritten,
)

ALL = (factors, missing, budget, labels, bits, quantise)
