"""Scores a model's calls: a verdict for each turn, rates with intervals, models side by side.

`score_turn` judges one turn (`_verdicts` says by which rules, and where they differ from those
of the Berkeley Function-Calling Leaderboard); `report` makes a table of all turns. Intervals are those of
`lessonlib.evaluation`: conversations, not turns, are the evidence. Nothing here runs a model or a tool.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lessonlib.evaluation import _scoring as scoring
from lessonlib.evaluation._metrics import check_lengths
from lessonlib.runtime._language import LessonError
from lessonlib.tools._verdicts import ERRORS, said, score_turn

if TYPE_CHECKING:
    import pandas as pd

    from lessonlib.tools._parsing import Parsed


_NO_CALL = "no call"
_RATES = ("right calls", "right abstention", "valid requests refused", "right replies")


def report(
    turns: Sequence[Mapping[str, Any]], parsed: Sequence["Parsed"], *, strings: str = "exact"
) -> "pd.DataFrame":
    """What the model did in each turn, and whether that was right.

    Args:
        turns: from `tools.turns`.
        parsed: what `tools.parse` read from the model's text, for each turn.
        strings: as for `score_turn`.

    Returns:
        A DataFrame with a row for each turn: id (or the number of its row), kind, language; after
        ("user" or "tool", whose message came before); request (the user's last message); tool (the names
        wanted, or "no call"); ok; error (None where right) and detail, as in `Verdict`; expected and got
        (lists of calls); text (what it said outside of calls).

    Raises:
        LessonError: no turns, or not as many as answers; and those of `score_turn`.
    """
    import pandas as pd

    check_lengths(parsed, turns)
    rows = []
    for turn, got in zip(turns, parsed, strict=True):
        verdict = score_turn(turn["calls"], got, turn["tools"], strings=strings)
        history = turn["history"]
        requests = [message["content"] for message in history if message["role"] == "user"]
        rows.append({
            "id": turn["row"] if turn["id"] is None else turn["id"],
            "kind": turn["kind"], "language": turn["language"],
            "after": "tool" if history and history[-1]["role"] == "tool" else "user",
            "request": requests[-1] if requests else "",
            "tool": " + ".join(call["name"] for call in turn["calls"]) or _NO_CALL,
            "ok": verdict.ok, "error": verdict.error, "detail": verdict.detail,
            "expected": list(turn["calls"]), "got": list(got.calls), "text": got.content,
        })  # fmt: skip
    # As objects: pandas would make a column of texts of it, with NaN for None.
    return pd.DataFrame(rows).assign(error=pd.Series([row["error"] for row in rows], dtype=object))


def rates(reports: Mapping[str, "pd.DataFrame"]) -> "pd.DataFrame":
    """How often each model was right, and how often it refused what it could have done.

    - right calls: of the turns that want calls, those where all of them are right;
    - right abstention: of the requests that want none, those where none was made (what is said instead is
      not judged: a model that says nothing at all abstains too);
    - valid requests refused: of the turns that want calls, those without any; here less is better;
    - right replies: of the turns after a result that want no further call, those without one.

    Args:
        reports: model name -> `report` of the same turns, first the base, last the model in question.

    Returns:
        In the form of `evaluation.compare`, so `evaluation.table` takes it: a row for each rate that
        there are turns for, each model's rate with its 95% interval (Wilson's), and with two models or more
        "last - first", the paired difference (bootstrap). Turns of one conversation count as one.

    Raises:
        LessonError: no report, an empty one, or reports of different turns.
    """
    first = _same_turns(reports)
    wanted = first["tool"] != _NO_CALL
    chosen = {
        _RATES[0]: (wanted, "right"),
        _RATES[1]: (~wanted & (first["after"] == "user"), "right"),
        _RATES[2]: (wanted, "no_call"),
        _RATES[3]: (~wanted & (first["after"] == "tool"), "right"),
    }
    chosen = {name: (rows, outcome) for name, (rows, outcome) in chosen.items() if rows.any()}
    return scoring.compare(
        {
            model: {name: _outcomes(frame[rows.to_numpy()]) for name, (rows, _) in chosen.items()}
            for model, frame in reports.items()
        },
        {name: [outcome] * int(rows.sum()) for name, (rows, outcome) in chosen.items()},
        groups={name: list(first["id"][rows]) for name, (rows, _) in chosen.items()},
    ).rename_axis(index="rate")


def by_kind(reports: Mapping[str, "pd.DataFrame"], column: str = "kind") -> "pd.DataFrame":
    """The share of right turns for each kind of turn and over all of them.

    Args:
        reports: as for `rates`.
        column: another column to tell turns apart by, such as "tool" or "language".

    Returns:
        A DataFrame in the form of `rates`, a row for each kind and a last row "(all)".

    Raises:
        LessonError: as `rates`; a column that the reports do not have.
    """
    first = _same_turns(reports)
    if column not in first:
        raise LessonError(
            "The reports have no column {column!r}. There are: {columns}.",
            column=column, columns=", ".join(first.columns),
        )
    return scoring.by(
        {model: _outcomes(frame) for model, frame in reports.items()}, ["right"] * len(first),
        [str(label) for label in first[column]], groups=list(first["id"]),
    ).rename_axis(index=column)  # fmt: skip


def by_error(reports: Mapping[str, "pd.DataFrame"]) -> "pd.DataFrame":
    """How many turns went wrong in which way: a row for "right" and for each error that occurs, in the order
    of checking, a column for each model.

    Args:
        reports: as for `rates`.

    Raises:
        LessonError: as `rates`.
    """
    import pandas as pd

    _same_turns(reports)
    counts = {model: _counted(_outcomes(frame)) for model, frame in reports.items()}
    rows = [name for name in ("right", *ERRORS) if any(name in its for its in counts.values())]
    table = {model: [its.get(name, 0) for name in rows] for model, its in counts.items()}
    return pd.DataFrame(table, index=pd.Index(rows, name="outcome"))


def mcnemar(reports: Mapping[str, "pd.DataFrame"]) -> "pd.DataFrame":
    """Is the last model better than the first by more than chance? McNemar's exact test.

    Only turns count that one of the two gets right and the other wrong. Were both equally good, each of these
    would fall to either like a coin: p = min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2). McNemar 1947,
    Note on the sampling error of the difference between correlated proportions or percentages. Of several
    turns of one conversation the shares that are right are compared (the sign test).

    Args:
        reports: as for `rates`, at least two.

    Returns:
        A DataFrame with a row for calls, one for abstention and one for all turns, as far as there are any:
        n, "only FIRST" (b), "only LAST" (c) and p. Three rows are three tests: look at the last one first.

    Raises:
        LessonError: as `rates`; a single report.
    """
    import pandas as pd

    frame = _same_turns(reports)
    if len(reports) < 2:
        raise LessonError("It takes two models to compare, here is one. Pass {'base': ..., 'tuned': ...}.")
    names = list(reports)
    first, last = names[0], names[-1]
    wanted = (frame["tool"] != _NO_CALL).to_numpy()
    asked = (frame["after"] == "user").to_numpy()
    rows = {"calls": wanted, "abstention": ~wanted & asked, "(all)": wanted | ~wanted}
    made = {}
    for name, chosen in rows.items():
        if chosen.any():
            of_first, of_last = (
                reports[model][chosen].groupby("id", sort=False)["ok"].mean() for model in (first, last)
            )
            b, c = int((of_first > of_last).sum()), int((of_first < of_last).sum())
            made[name] = {"n": len(of_first), f"only {first}": b, f"only {last}": c, "p": _exact(b, c)}
    return pd.DataFrame.from_dict(made, orient="index").rename_axis(index="turns")


def worst(report: "pd.DataFrame", n: int = 8) -> "pd.DataFrame":
    """The turns that went wrong worst, to be read: those first whose check failed earliest.

    Args:
        report: from `report`.
        n: how many at most.

    Returns:
        A DataFrame with id, kind, request, error, detail, expected and got, calls written as
        `name(argument="value")`; without rows where all is right.
    """
    graver = {name: at for at, name in enumerate(ERRORS)}
    wrong = report[~report["ok"].astype(bool)]
    rows = wrong.sort_values("error", key=lambda errors: errors.map(graver), kind="stable").head(n)
    shown = rows[["id", "kind", "request", "error", "detail", "expected", "got"]].reset_index(drop=True)
    shown["expected"] = [written(calls) for calls in rows["expected"]]
    shown["got"] = [written(calls) or text for calls, text in zip(rows["got"], rows["text"], strict=True)]
    return shown


def written(calls: Iterable[Mapping[str, Any]]) -> str:
    """Calls as a reader knows them: `get_weather(city="Huế")`; long values cut."""
    return "; ".join(
        f"{said(call['name'])[1:-1]}("
        + ", ".join(f"{said(key)[1:-1]}={said(value)}" for key, value in call["arguments"].items())
        + ")"
        for call in calls
    )


# ---------------------------------------------------------------- details


def _same_turns(reports: Mapping[str, "pd.DataFrame"]) -> "pd.DataFrame":
    """The first report, once it is sure that all are of the same turns in the same order."""
    if not reports or not all(map(len, reports.values())):
        raise LessonError("There is nothing to count yet. Pass {'base': report(...), 'tuned': report(...)}.")
    (name, first), *others = reports.items()
    of_first = first[["id", "after", "tool"]].to_numpy().tolist()
    for other, frame in others:
        if frame[["id", "after", "tool"]].to_numpy().tolist() != of_first:
            raise LessonError(
                "The reports of {other!r} and {name!r} are not of the same turns in the same order. Score "
                "every model on one and the same list of turns.",
                other=other, name=name,
            )
    return first


def _outcomes(frame: "pd.DataFrame") -> list[str]:
    return ["right" if ok else str(error) for ok, error in zip(frame["ok"], frame["error"], strict=True)]


def _counted(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _exact(b: int, c: int) -> float:
    """The two-sided exact p of b against c under a fair coin; 1 where there is nothing to tell them apart."""
    ways = tail = 1  # ways: C(b + c, k), from k = 0 on; whole numbers, so that nothing underflows
    for k in range(min(b, c)):
        ways = ways * (b + c - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2 ** (b + c))
