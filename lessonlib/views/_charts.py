"""Pictures: a loss curve, memory part by part, what 4 bits do to a weight.

Each is a matplotlib Figure outside pyplot, needs no colour to be understood, and is the same picture on every
machine. Nothing here measures or plans: `training`, `memory` and `quantisation` do.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lessonlib.models._quantisation import BLOCK, levels, relative_error, round_trip
from lessonlib.runtime._language import LessonError, tr
from lessonlib.training._memory import RESERVE_GIB, fits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

_POINTS = 2000  # blocks drawn as points; of more, evenly spaced ones
# Okabe and Ito's colours, which the colour-blind tell apart; the hatches do without colour.
_PARTS = {
    "weights": ("#0072B2", ""),
    "constants": ("#56B4E9", "xx"),
    "adapters": ("#009E73", "//"),
    "gradients": ("#F0E442", "\\\\"),
    "optimiser": ("#E69F00", ".."),
    "activations": ("#CC79A7", "--"),
    "logits": ("#D55E00", "++"),
}


def loss_curve(
    histories: "Mapping[str, pd.DataFrame]", *, reference: Mapping[str, float] | None = None
) -> "Figure":
    """Draw training loss (solid) and held-out loss (dashed) of one or more runs over steps.

    Args:
        histories: a name for each run, and its table with `step`, `loss` and, if measured, `eval_loss`
            (nats per token), as `training.history` gives it; missing values are passed over.
        reference: named levels drawn as horizontal lines, such as {"ln(V)": 6.93}: the loss of a uniform
            guess.

    Returns:
        A matplotlib Figure outside pyplot's list of open figures. Numbers are rounded to 3 decimals first, so
        that the picture is the same on every machine.

    Raises:
        LessonError: no run is given, or one lacks the columns or has no value.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    drawn = 0
    for number, (name, history) in enumerate(histories.items()):
        lines = [
            (column, style) for column, style in (("loss", "-o"), ("eval_loss", "--s")) if column in history
        ]
        known = [(column, style, history.dropna(subset=[column])) for column, style in lines]
        known = [(column, style, values) for column, style, values in known if len(values)]
        if "step" not in history or not known:
            raise LessonError(
                "The run {name!r} has nothing to draw: it needs step and loss or eval_loss, and has "
                "{columns} in {count} rows. Pass training.history(trainer) after training.",
                name=name, columns=list(history.columns), count=len(history),
            )
        for column, style, values in known:
            held_out = column == "eval_loss"
            part = "held-out" if held_out else tr("training")
            points = values[column].astype(float).round(3)
            # The few held-out points go on top, large and hollow: the many training points would hide them.
            axes.plot(
                values["step"], points, style, color=f"C{number}", label=f"{name} · {part}",
                markersize=7 if held_out else 3, markerfacecolor="white" if held_out else f"C{number}",
                zorder=5 if held_out else 2,
            )
            drawn += 1
    if not drawn:
        raise LessonError(
            "There is no run to draw. Pass {example}.", example="{'name': training.history(trainer)}"
        )
    for name, level in (reference or {}).items():
        axes.axhline(round(level, 3), color="grey", linestyle=":")
        axes.annotate(
            f"{name} = {level:.2f}",
            (0.99, level),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
        )
    axes.set_xlabel(tr("step"))
    axes.set_ylabel(tr("loss (nats per token)"))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return shown(figure)


def memory_bars(plans: "Mapping[str, pd.DataFrame]", *, card: float | None = 14.7) -> "Figure":
    """Draw memory plans as bars on one scale, each part a piece of its bar, beside what the card has.

    Args:
        plans: a name for each plan, and the plan, from `training.memory_plan`.
        card: the card's memory in GiB, drawn as a line, with a dashed one where its reserve begins (as in
            `memory_verdict`; bars that end before it get a tick, others a cross); None for no lines. A T4 in
            Colab has 14.7.

    Returns:
        A Figure with one bar for each plan, the first on top, and its total at the end of the row.

    Raises:
        LessonError: no plan is given, one is not a plan, or the card's memory is not above 0.
    """
    from matplotlib.figure import Figure

    _check_plans(plans, card)
    totals = {name: float(plan.loc[plan["part"] == "total", "gib"].item()) for name, plan in plans.items()}
    edge = max([*totals.values(), card or 0])
    figure = Figure(figsize=(8, 1.7 + 0.45 * len(plans)), layout="constrained")
    axes = figure.add_subplot()
    starts = dict.fromkeys(plans, 0.0)
    for part, (colour, hatch) in _PARTS.items():
        sizes = {name: float(plan.loc[plan["part"] == part, "gib"].sum()) for name, plan in plans.items()}
        if any(sizes.values()):
            axes.barh(
                list(plans), list(sizes.values()), left=list(starts.values()), height=0.6, color=colour,
                hatch=hatch, edgecolor="black", linewidth=0.5, label=_part_name(part),
            )
            starts = {name: start + sizes[name] for name, start in starts.items()}
    for row, (name, total) in enumerate(totals.items()):
        mark = "" if card is None else " ✓" if fits(plans[name], card) else " ✗"
        # Outside the frame, where neither a bar nor the card's line runs through it.
        axes.annotate(
            f"{total:.1f} GiB{mark}", (1.01, row), xycoords=("axes fraction", "data"), va="center",
            fontweight="bold", annotation_clip=False,
        )
    if card is not None:
        line = tr("card: {card:g} GiB", card=card)
        rest = f"{card - RESERVE_GIB:g}"
        reserve = tr("less {reserve_gib:g} GiB in reserve: {rest}", reserve_gib=RESERVE_GIB, rest=rest)
        axes.axvline(card, color="black", linewidth=2, label=line)
        axes.axvline(card - RESERVE_GIB, color="black", linestyle="--", linewidth=1.2, label=reserve)
    axes.invert_yaxis()
    axes.set_xlim(0, edge * 1.03)
    axes.set_xlabel(tr("GPU memory (GiB)"))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=5, fontsize="small", frameon=False, handlelength=2.5)
    return shown(figure)


def quantisation(weight: "Tensor", *, blocksize: int = BLOCK) -> "Figure":
    """Draw what 4 bits (nf4) do to a weight.

    On the left every number over the largest of its block, as a histogram, and the 16 levels that are there
    afterwards. On the right each block as a point: its largest number against its mean error. One outlier
    makes the levels of its whole block coarser.

    Args:
        weight: a matrix of floating-point numbers, such as `model.model.layers[0].mlp.down_proj.weight`.
        blocksize: numbers that share a scale; 64 in transformers.

    Returns:
        A Figure; of more than 2000 blocks, the right side shows evenly spaced ones. Numbers are rounded to a
        ten-thousandth of the largest first, so that the picture is the same on every machine.

    Raises:
        LessonError: for what `models.quantisation_error` refuses, and a weight smaller than a block.
    """
    from matplotlib.figure import Figure

    values, back, _ = round_trip(weight, blocksize=blocksize)
    blocks = values.numel() // blocksize  # a last block that is not full is left out
    if not blocks:
        raise LessonError(
            "This weight has {values} numbers, less than one block of {blocksize}. Choose a larger matrix, "
            "or a smaller blocksize.",
            values=values.numel(), blocksize=blocksize,
        )
    before = values.flatten()[: blocks * blocksize].reshape(blocks, blocksize)
    after = back.flatten()[: blocks * blocksize].reshape(blocks, blocksize)
    largest = before.abs().amax(dim=1)  # (blocks,)
    error = (before - after).abs().mean(dim=1)  # (blocks,)
    scaled = before / largest.clamp_min(1e-30)[:, None]

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(
        scaled.flatten().numpy().round(4), bins=81, range=(-1.0125, 1.0125), color="#56B4E9",
        edgecolor="white", linewidth=0.3, label=tr("before: all weights"),
    )
    for number, level in enumerate(levels()):
        left.axvline(
            level, color="#D55E00", linewidth=1, linestyle="--",
            label=None if number else tr("after: the 16 levels of nf4"),
        )
    left.set_xlabel(tr("weight / largest of its block (absmax)"))
    left.set_ylabel(tr("number of weights"))
    left.set_xticks([-1, -0.5, 0, 0.5, 1])
    left.set_ylim(top=left.get_ylim()[1] * 1.25)  # room for the legend
    left.legend(loc="upper center", ncols=2, fontsize="small")

    step = -(-blocks // _POINTS)
    right.plot(
        _rounded(largest[::step]), _rounded(error[::step]), "o", color="#0072B2", markersize=3, alpha=0.5,
        markeredgewidth=0,
    )
    right.set_xlim(left=0)
    right.set_ylim(bottom=0)
    right.set_xlabel(tr("absmax of the block"))
    right.set_ylabel(tr("mean error |before − after|"))
    right.ticklabel_format(style="sci", scilimits=(-2, 3), axis="both")
    right.grid(alpha=0.3)
    points = tr("each point: a block of {blocksize} weights", blocksize=blocksize)
    right.set_title(points, fontsize="medium")
    relative = relative_error(values, back)
    left.set_title(tr("relative error {relative:.1%}", relative=relative), fontsize="medium")
    return shown(figure)


def _part_name(part: str) -> str:
    names = {
        "weights": tr("weights"),
        "constants": tr("quantisation constants"),
        "adapters": tr("adapters"),
        "gradients": tr("gradients"),
        "optimiser": tr("optimiser"),
        "activations": tr("activations"),
        "logits": tr("logits"),
    }
    return names[part]


def _check_plans(plans: "Mapping[str, pd.DataFrame]", card: float | None) -> None:
    if not plans:
        raise LessonError(
            "There is no memory plan to draw. Pass {example}.", example="{'name': training.memory_plan(...)}"
        )
    for name, plan in plans.items():
        if not {"part", "gib"} <= set(plan) or "total" not in set(plan["part"]):
            raise LessonError(
                "{name!r} is no table of training.memory_plan: it needs columns part and gib, and a row "
                "total.",
                name=name,
            )
    if card is not None and not card > 0:
        raise LessonError("card={card!r} has to be above 0 (GiB), or None to draw no card.", card=card)


def _rounded(values: "Tensor") -> Any:
    """Rounded to a ten-thousandth of the largest."""
    unit = values.max().item() / 10_000 or 1.0
    return (values / unit).round().numpy() * unit


def shown(figure: "Figure") -> "Figure":
    """Only pyplot teaches a notebook how to show a Figure; these bring their own picture."""
    setattr(figure, "_repr_png_", lambda: _png(figure))  # noqa: B010
    return figure


def _png(figure: "Figure") -> bytes:
    import io

    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100, facecolor="white", metadata={"Software": None})
    return picture.getvalue()
