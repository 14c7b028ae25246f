"""Scores answers and says how sure the score is: an interval for every mean, models side by side.

It never sees a model: it takes lists of strings, and gives back numbers and DataFrames. The metrics come from
`_metrics`; lessons meet both through `lessonlib.evaluation`.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.evaluation._metrics import (
    METRICS,
    check_lengths,
)
from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


RESAMPLES = 2000  # bootstrap samples; the ends of a 95% interval then move by less than a point between seeds
SEED = 0
Z = 1.959963984540054  # 97.5% point of the standard normal distribution: a two-sided 95% interval


# ---------------------------------------------------------------- a score and how sure it is


@dataclass(frozen=True)
class Score:
    """A mean with its 95% interval; `n` is the number of groups behind it. Shown as 0.93 [0.85, 0.97]."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        # + 0.0 turns -0.0 into 0.0, which would be shown with its sign
        mean, low, high = (round(value, 2) + 0.0 for value in (self.mean, self.low, self.high))
        return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def mean_score(values: Sequence[float], *, groups: Sequence[Any] | None = None) -> Score:
    """The mean of numbers that are there already, one for each answer, with its `bootstrap` interval.

    For what is no metric of answer and reference, such as `slots_copied`:
    `mean_score(slots_copied(said, rows["slots"]), groups=rows["intent"])`.

    Args:
        values: one number for each answer; answers with NaN are passed over.
        groups: for each answer what it belongs to, such as the fact's id; None: each is its own group.

    Returns:
        A `Score`, its `n` the number of groups with a number in them.

    Raises:
        LessonError: nothing but NaN; lists of different lengths.
    """
    keys = range(len(values)) if groups is None else groups
    check_lengths(values, keys)
    told = [(key, value) for key, value in zip(keys, values, strict=True) if not math.isnan(value)]
    if not told:
        raise LessonError(
            "All {count} values are NaN: there is nothing to score in any of these answers.",
            count=len(values),
        )
    means = _group_means([value for _, value in told], [key for key, _ in told])
    return Score(float(means.mean()), *bootstrap(means), len(means))


def _scored(values: "np.ndarray", metric: str) -> Score:
    mean, n = float(values.mean()), len(values)
    return Score(mean, *(wilson(mean, n) if metric == "exact_match" else bootstrap(values)), n)


def _by_group(
    predictions: Sequence[str], references: Sequence[str], metric: str, groups: Sequence[Any] | None
) -> "np.ndarray":
    """The metric's mean of each group, as `_group_means`."""
    if metric not in METRICS:
        near = get_close_matches(metric, METRICS, n=1)
        known = ", ".join(METRICS)
        if near:
            raise LessonError(
                "There is no metric {metric!r}. Did you mean {near!r}? There are: {known}.",
                metric=metric, near=near[0], known=known,
            )
        raise LessonError("There is no metric {metric!r}. There are: {known}.", metric=metric, known=known)
    check_lengths(predictions, references, groups)
    return _group_means(METRICS[metric](predictions, references), groups)


def _group_means(values: Sequence[float], groups: Sequence[Any] | None) -> "np.ndarray":
    """The mean of each group, in the order in which groups first appear: shape (groups,)."""
    import numpy as np

    gathered: dict[Any, list[float]] = {}
    for key, value in zip(range(len(values)) if groups is None else groups, values, strict=True):
        gathered.setdefault(key, []).append(value)
    return np.array([sum(values) / len(values) for values in gathered.values()])


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval for a proportion p of n trials:
    (p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n), z = 1.96.

    Wilson 1927, Probable inference, the law of succession, and statistical inference, JASA 22, 209-212.
    """
    centre = mean + Z**2 / (2 * n)
    half = Z * math.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + Z**2 / n), (centre + half) / (1 + Z**2 / n)
    # The formula gives exactly 0 at p = 0 and 1 at p = 1; rounding must not step outside.
    return min(max(low, 0.0), mean), max(min(high, 1.0), mean)


def bootstrap(values: "np.ndarray") -> tuple[float, float]:
    """The 95% percentile interval of the mean: 2.5% and 97.5% points of the means of 2000 samples of n values
    drawn with replacement, always by the same seed.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.

    Args:
        values: shape (n,), one independent value each.
    """
    import numpy as np

    drawn = np.random.default_rng(SEED).integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


# ---------------------------------------------------------------- models side by side


def compare(
    results: Mapping[str, Mapping[str, Sequence[str]]],
    references: Mapping[str, Sequence[str]],
    *,
    metric: str = "exact_match",
    groups: Mapping[str, Sequence[Any]] | None = None,
) -> "pd.DataFrame":
    """Several models on several splits, as numbers; `table` makes the same into text.

    Wordings of one question stand or fall together, so they are not independent evidence: scores are averaged
    within each group first, the mean is the mean of the groups, and the interval knows only of groups (Miller
    2024, Adding Error Bars to Evals, arXiv:2411.00640).

    - exact match: `wilson(mean, n)` with n groups. Right where a group is all right or all wrong, too wide
      (on the safe side) where it is mixed. It stays honest at 0 and at 1.
    - other metrics: `bootstrap` over the groups. With all groups equal its interval has no width, and below
      about ten groups it is too narrow.

    With two models or more, a last entry named "last - first" holds the paired difference: per group the last
    model's score minus the first's, with the `bootstrap` interval of its mean. Pairing takes out what is hard
    for both (Koehn 2004, Statistical significance tests for machine translation evaluation). Where all groups
    differ by the same amount that interval has no width: then read the models' own intervals.

    Args:
        results: model name -> split name -> answers, first the base, last the model in question.
        references: split name -> right answers; its order is the order of the rows.
        metric: "exact_match", "token_f1", "chrf" or "rouge_l".
        groups: split name -> for each answer what it belongs to, such as the fact's id; None: each answer is
            its own group.

    Returns:
        A DataFrame: a row for each split, columns (model, "mean" | "low" | "high" | "n").

    Raises:
        LessonError: no model, or a model whose splits are not those of `references`; an unknown metric; no
            answers; lists of different lengths.
    """
    if not results:
        raise LessonError("There is no model to compare. Pass {'base': {...}, 'tuned': {...}}.")
    for what, by_split in [*results.items(), *([("groups", groups)] if groups is not None else [])]:
        if set(by_split) != set(references):
            raise LessonError(
                "{what!r} has the splits {by_split}, the references have {references}. Evaluate the same "
                "splits.",
                what=what, by_split=sorted(by_split), references=sorted(references),
            )
    first, last = next(iter(results)), list(results)[-1]
    rows = {}
    for split, wanted in references.items():
        of_split = None if groups is None else groups[split]
        values = {name: _by_group(said[split], wanted, metric, of_split) for name, said in results.items()}
        scores = {name: _scored(value, metric) for name, value in values.items()}
        if first != last:
            gain = values[last] - values[first]  # (groups,)
            scores[f"{last} - {first}"] = Score(float(gain.mean()), *bootstrap(gain), len(gain))
        rows[split] = scores
    return comparison_of(rows)


def comparison_of(scores: Mapping[str, Mapping[str, Score]]) -> "pd.DataFrame":
    """Split -> model -> score as the DataFrame that `compare` describes and `table` takes."""
    import pandas as pd

    rows = {
        split: {(name, part): value for name, its in by_model.items() for part, value in vars(its).items()}
        for split, by_model in scores.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index").loc[list(scores)]
    frame.columns = pd.MultiIndex.from_tuples(frame.columns, names=["model", None])
    return frame.rename_axis(index="split")


def by(
    results: Mapping[str, Sequence[str]],
    references: Sequence[str],
    labels: Sequence[str],
    *,
    metric: str = "exact_match",
    groups: Sequence[Any] | None = None,
) -> "pd.DataFrame":
    """Several models on one split, label by label (say, intent by intent) and over all of them.

    Each label is scored as if it were a split of its own: intervals of few answers are wide, and among many
    labels one looks extreme by chance. The overall row is the mean over all groups, not over the labels.

    Args:
        results: model name -> answers, first the base, last the model in question.
        references: the right answers.
        labels: the label of each answer.
        metric: as for `compare`.
        groups: the group of each answer, as for `compare`.

    Returns:
        A DataFrame in the form of `compare`, so `table` takes it: a row for each label, in their order by
        name, and a last row "(all)".

    Raises:
        LessonError: as `compare`; lists of different lengths.
    """
    check_lengths(labels, references, groups)
    for said in results.values():
        check_lengths(said, references)
    rows_of = {label: [at for at, its in enumerate(labels) if its == label] for label in sorted(set(labels))}
    rows_of["(all)"] = list(range(len(labels)))

    def dealt(values: Sequence[Any]) -> dict[str, list[Any]]:
        return {label: [values[at] for at in rows] for label, rows in rows_of.items()}

    frame = compare(
        {name: dealt(said) for name, said in results.items()}, dealt(references), metric=metric,
        groups=None if groups is None else dealt(groups),
    )
    return frame.rename_axis(index="label")


def table(comparison: "pd.DataFrame") -> "pd.DataFrame":
    """The numbers of `compare` as text to read: a row for each split, a column for each model, cells such as
    "0.93 [0.85, 0.97]"."""
    import pandas as pd

    names = list(dict.fromkeys(comparison.columns.get_level_values(0)))
    cells = {
        name: [
            str(Score(mean, low, high, int(n)))
            for mean, low, high, n in comparison[name][["mean", "low", "high", "n"]].itertuples(index=False)
        ]
        for name in names
    }
    return pd.DataFrame(cells, index=comparison.index)


def save_metrics(
    path: str | os.PathLike, *, lesson: str, profile: str, comparison: "pd.DataFrame", **extra: Any
) -> Path:
    """Write what a lesson measured as JSON: the same measurements always give the same bytes.

    {"lesson", "profile", "table": {"columns", "rows"}, "metrics": {"comparison": {split: {model: numbers}}}};
    keys sorted, numbers rounded to 4 decimals. The first column of the table is the split.

    Args:
        path: the file to write; its folder is made.
        lesson: the lesson's number, such as "01".
        profile: the runtime's profile, so that a rehearsal is not taken for the real thing.
        comparison: what `compare` gave.
        extra: more measurements (numbers, text, lists, dicts), put beside the comparison under "metrics".

    Returns:
        The path written.

    Raises:
        LessonError: a number that is NaN or infinite, named by its key.
    """
    readable = table(comparison)
    splits: dict[str, dict[str, dict[str, float]]] = {}
    for split, row in comparison.iterrows():
        of_split = splits.setdefault(str(split), {})
        for (name, part), value in row.items():
            of_split.setdefault(name, {})[part] = int(value) if part == "n" else value
    record = {
        "lesson": lesson,
        "profile": profile,
        "table": {
            "columns": ["split", *readable.columns],
            "rows": [[str(split), *row] for split, row in zip(readable.index, readable.values, strict=True)],
        },
        "metrics": _plain({"comparison": splits, **extra}, "metrics"),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.partial")
    written = json.dumps(record, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    staged.write_text(written, encoding="utf-8")
    return staged.replace(path)  # at once: a reader sees the old file or the new one, never half of one


def _plain(value: Any, where: str) -> Any:
    """The value as JSON knows it, floats rounded; numpy's scalars and arrays become Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{where}[{at}]") for at, inner in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise LessonError(
                "{where} is {value}, not a finite number. Find out where it broke before saving it.",
                where=where, value=value,
            )
        return round(value, 4) + 0.0
    return value
