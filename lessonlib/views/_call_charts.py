"""A picture of calls: which tool was wanted, and which one the model called.

As those of `_charts`: a matplotlib Figure outside pyplot, which needs no colour to be understood.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from lessonlib.runtime._language import LessonError, tr
from lessonlib.views._charts import shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_NO_CALL, _UNREADABLE, _OTHER = "no call", "unreadable", "other"
_CELL = 0.42  # inches


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
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    counts = _counts(report)
    rows = [*sorted({row for row, _ in counts} - {_NO_CALL}), _NO_CALL]
    columns = rows + [name for name in (_UNREADABLE, _OTHER) if any(column == name for _, column in counts)]
    label = max(map(len, columns)) * 0.085  # inches
    figure = Figure(
        figsize=(len(columns) * _CELL + label + 1.1, len(rows) * _CELL + label * 0.75 + 0.9),
        layout="constrained",
    )
    axes = figure.add_subplot()
    totals = {row: sum(number for (its, _), number in counts.items() if its == row) for row in rows}
    shares = [[counts[row, column] / max(totals[row], 1) for column in columns] for row in rows]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.7, aspect="equal")  # black is readable on it
    for y, row in enumerate(rows):
        axes.add_patch(Rectangle((y - 0.5, y - 0.5), 1, 1, fill=False, linewidth=1.2, zorder=4))
        for x, column in enumerate(columns):
            if number := counts[row, column]:
                weight = "bold" if x == y else "normal"
                axes.text(
                    x, y, str(number), ha="center", va="center", fontweight=weight,
                    fontsize=9 if number < 1000 else 7,
                )
    axes.set_xticks(range(len(columns)), _names(columns), rotation=45, ha="right", rotation_mode="anchor")
    named = [f"{name} ({totals[row]})" for row, name in zip(rows, _names(rows), strict=True)]
    axes.set_yticks(range(len(rows)), named)
    axes.set_xticks([at - 0.5 for at in range(1, len(columns))], minor=True)
    axes.set_yticks([at - 0.5 for at in range(1, len(rows))], minor=True)
    axes.grid(which="minor", color="lightgrey", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(False)
    axes.set_ylabel(tr("tool that was wanted (times)"))
    axes.set_xlabel(tr("tool that was called"))
    return shown(figure)


def _counts(report: "pd.DataFrame") -> "Counter[tuple[str, str]]":
    """(wanted, called) -> how often."""
    if not {"expected", "got", "error"} <= set(report) or not len(report):
        raise LessonError(
            "There is nothing to draw: it takes a table of tools.report, this has {count} rows and the "
            "columns {report}.",
            count=len(report), report=list(report),
        )
    wanted = {call["name"] for calls in report["expected"] for call in calls}
    counts: Counter[tuple[str, str]] = Counter()
    for expected, got, error in zip(report["expected"], report["got"], report["error"], strict=True):
        rows = [call["name"] for call in expected]
        if error == _UNREADABLE:
            counts.update((row, _UNREADABLE) for row in rows or [_NO_CALL])
        else:
            columns = [call["name"] if call["name"] in wanted else _OTHER for call in got]
            counts.update(_pairs(rows, columns) or [(_NO_CALL, _NO_CALL)])
    return counts


def _pairs(rows: Sequence[str], columns: Sequence[str]) -> list[tuple[str, str]]:
    """Equal names first, then the rest in order; what is left over is beside "no call"."""
    equal = Counter(rows) & Counter(columns)
    wanted, called = (list((Counter(names) - equal).elements()) for names in (rows, columns))
    rest = list(zip_longest(wanted, called, fillvalue=_NO_CALL))
    return [(name, name) for name in equal.elements()] + rest


def _names(keys: Iterable[str]) -> list[str]:
    said = {
        _NO_CALL: tr("no call"),
        _UNREADABLE: tr("unreadable"),
        _OTHER: tr("another name"),
    }
    return [said.get(key, key) for key in keys]
