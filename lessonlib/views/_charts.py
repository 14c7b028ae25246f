"""Pictures: a loss curve, memory part by part, what 4 bits do to a weight, which tools were called.

Each is a matplotlib Figure outside pyplot, needs no colour to be understood, and is the same picture on every
machine. Nothing here measures or plans: `training`, `memory` and `quantisation` do.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from lessonlib.models._quantisation import BLOCK, levels, relative_error, round_trip
from lessonlib.runtime._detect import headless
from lessonlib.runtime._language import LessonError, Translated, tr
from lessonlib.training._memory import RESERVE_GIB, fits
from lessonlib.training._trainer import logged

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor
    from transformers import TrainerCallback

_POINTS = 2000  # blocks drawn as points; of more, evenly spaced ones
# Okabe and Ito's colours, which the colour-blind tell apart; the hatches do without colour.
_PARTS = {
    "weights": (Translated("weights"), "#0072B2", ""),
    "constants": (Translated("quantisation constants"), "#56B4E9", "xx"),
    "adapters": (Translated("adapters"), "#009E73", "//"),
    "gradients": (Translated("gradients"), "#F0E442", "\\\\"),
    "optimiser": (Translated("optimiser"), "#E69F00", ".."),
    "activations": (Translated("activations"), "#CC79A7", "--"),
    "logits": (Translated("logits"), "#D55E00", "++"),
}
_NO_CALL, _UNREADABLE, _OTHER = "no call", "unreadable", "other"
_NAMES = {
    _NO_CALL: Translated("no call"),
    _UNREADABLE: Translated("unreadable"),
    _OTHER: Translated("another name"),
}
_CELL = 0.42  # inches: a cell of `confusion`


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

    if not histories:
        raise LessonError(
            "There is no run to draw. Pass {example}.", example="{'name': training.history(trainer)}"
        )
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, history) in enumerate(histories.items()):
        there = [column for column in ("loss", "eval_loss") if column in history]
        known = {column: values for column in there if len(values := history.dropna(subset=[column]))}
        if "step" not in history or not known:
            raise LessonError(
                "The run {name!r} has nothing to draw: it needs step and loss or eval_loss, and has "
                "{columns} in {count} rows. Pass training.history(trainer) after training.",
                name=name, columns=list(history.columns), count=len(history),
            )
        for column, values in known.items():
            held_out = column == "eval_loss"
            part = "held-out" if held_out else tr("training")
            # The few held-out points go on top, large and hollow: the many training points would hide them.
            axes.plot(
                values["step"], values[column].astype(float).round(3), "--s" if held_out else "-o",
                color=f"C{number}", label=f"{name} · {part}", markersize=7 if held_out else 3,
                markerfacecolor="white" if held_out else f"C{number}", zorder=5 if held_out else 2,
            )
    for name, level in (reference or {}).items():
        axes.axhline(round(level, 3), color="grey", linestyle=":")
        axes.annotate(
            f"{name} = {level:.2f}", (0.99, level), xycoords=("axes fraction", "data"), ha="right",
            va="bottom",
        )
    axes.set_xlabel(tr("step"))
    axes.set_ylabel(tr("loss (nats per token)"))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return _shown(figure)


def live_loss(name: str = "loss") -> "TrainerCallback":
    """A callback that draws training and held-out loss in the cell's output, anew at each log.

    Give it to `training.trainer(..., callbacks=[live_loss()])`. In a headless run it draws nothing: there the
    curve is drawn once, at the end, by `views.loss_curve(training.history(trainer))`.

    Args:
        name: the run's name in the legend.

    Returns:
        A `transformers.TrainerCallback`.
    """
    from transformers import TrainerCallback

    class LiveLoss(TrainerCallback):
        """Keeps one picture in the output up to date."""

        picture: Any = None

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if headless():
                return
            from IPython.display import display

            frame = logged(state.log_history)
            if frame.empty:
                return
            figure = loss_curve({name: frame})
            if self.picture is None:
                self.picture = display(figure, display_id=True)
            else:
                self.picture.update(figure)

    return LiveLoss()


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
    import pandas as pd
    from matplotlib.figure import Figure

    _check_plans(plans, card)
    table = pd.DataFrame({name: plan.set_index("part")["gib"] for name, plan in plans.items()}).T
    table = table.reindex(columns=[*_PARTS, "total"]).fillna(0)  # a row for each plan
    edge = max(table["total"].max(), card or 0)
    figure = Figure(figsize=(8, 1.7 + 0.45 * len(plans)), layout="constrained")
    axes = figure.add_subplot()
    starts = 0 * table["total"]
    for part, (said, colour, hatch) in _PARTS.items():
        if table[part].any():
            axes.barh(
                table.index, table[part], left=starts, height=0.6, color=colour, hatch=hatch,
                edgecolor="black", linewidth=0.5, label=str(said),
            )
            starts = starts + table[part]
    for row, (name, total) in enumerate(table["total"].items()):
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
    return _shown(figure)


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
    whole = slice(blocks * blocksize)
    before, after = (numbers.flatten()[whole].reshape(blocks, blocksize) for numbers in (values, back))
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
    right.set_title(tr("each point: a block of {blocksize} weights", blocksize=blocksize), fontsize="medium")
    relative = relative_error(values, back)
    left.set_title(tr("relative error {relative:.1%}", relative=relative), fontsize="medium")
    return _shown(figure)


def confusion(report: "pd.DataFrame") -> "Figure":
    """Draw how often each tool was wanted and which one was called instead.

    A row for each tool that is wanted somewhere and one for "no call", columns for what came. Of parallel
    calls those with equal names belong together first, the others in their order; what is left on either side
    is beside "no call". So the diagonal counts the right name; whether the arguments are right is not seen
    here.

    Args:
        report: from `tools.report`.

    Returns:
        A Figure: counts in the cells, empty for 0, the darker the greater the share of its row, the diagonal
        framed. Columns "unreadable" (something like a call that cannot be read) and "other" (a tool that is
        never wanted, or that does not exist) are there where they occur.

    Raises:
        LessonError: a table without rows, or one that is no report.
    """
    import pandas as pd
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    if not {"expected", "got", "error"} <= set(report) or not len(report):
        raise LessonError(
            "There is nothing to draw: it takes a table of tools.report, this has {count} rows and the "
            "columns {report}.",
            count=len(report), report=list(report),
        )
    pairs = pd.DataFrame(_pairs(report), columns=["wanted", "called"])
    counts = pd.crosstab(pairs["wanted"], pairs["called"])
    rows = [*counts.index.drop(_NO_CALL, errors="ignore"), _NO_CALL]
    columns = rows + [name for name in (_UNREADABLE, _OTHER) if name in counts]
    counts = counts.reindex(index=rows, columns=columns, fill_value=0)
    totals = counts.sum(axis="columns")
    label = max(map(len, columns)) * 0.085  # inches
    figure = Figure(
        figsize=(len(columns) * _CELL + label + 1.1, len(rows) * _CELL + label * 0.75 + 0.9),
        layout="constrained",
    )
    axes = figure.add_subplot()
    shares = counts.div(totals.clip(lower=1), axis="index").to_numpy()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.7, aspect="equal")  # black is readable on it
    for y, row in enumerate(rows):
        axes.add_patch(Rectangle((y - 0.5, y - 0.5), 1, 1, fill=False, linewidth=1.2, zorder=4))
        for x, column in enumerate(columns):
            if number := counts.at[row, column]:
                axes.text(
                    x, y, str(number), ha="center", va="center", fontsize=9 if number < 1000 else 7,
                    fontweight="bold" if x == y else "normal",
                )
    names = [str(_NAMES.get(column, column)) for column in columns]
    axes.set_xticks(range(len(columns)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [f"{_NAMES.get(row, row)} ({totals[row]})" for row in rows])
    axes.set_xticks([at - 0.5 for at in range(1, len(columns))], minor=True)
    axes.set_yticks([at - 0.5 for at in range(1, len(rows))], minor=True)
    axes.grid(which="minor", color="lightgrey", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(False)
    axes.set_ylabel(tr("tool that was wanted (times)"))
    axes.set_xlabel(tr("tool that was called"))
    return _shown(figure)


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


def _pairs(report: "pd.DataFrame") -> list[tuple[str, str]]:
    """(wanted, called) for each call: equal names, then the rest in order, leftovers beside "no call"."""
    known = {call["name"] for calls in report["expected"] for call in calls}
    pairs: list[tuple[str, str]] = []
    for expected, got, error in zip(report["expected"], report["got"], report["error"], strict=True):
        wanted = [call["name"] for call in expected]
        called = [call["name"] if call["name"] in known else _OTHER for call in got]
        if error == _UNREADABLE:
            pairs += [(name, _UNREADABLE) for name in wanted or [_NO_CALL]]
        elif not wanted and not called:
            pairs.append((_NO_CALL, _NO_CALL))
        else:
            equal = Counter(wanted) & Counter(called)
            rest = [(Counter(names) - equal).elements() for names in (wanted, called)]
            pairs += [(name, name) for name in equal.elements()]
            pairs += zip_longest(*rest, fillvalue=_NO_CALL)
    return pairs


def _rounded(values: "Tensor") -> Any:
    """Rounded to a ten-thousandth of the largest."""
    unit = values.max().item() / 10_000 or 1.0
    return (values / unit).round().numpy() * unit


def _shown(figure: "Figure") -> "Figure":
    """Only pyplot teaches a notebook how to show a Figure; these bring their own picture."""
    import io

    def png() -> bytes:
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=100, facecolor="white", metadata={"Software": None})
        return picture.getvalue()

    setattr(figure, "_repr_png_", png)  # noqa: B010
    return figure
