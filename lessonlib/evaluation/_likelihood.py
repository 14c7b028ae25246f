"""Perplexity with an interval, and two models' perplexities against each other.

It never sees a model: it takes the tables that `evaluation.answer_losses` makes, a row for each answer.
Lessons meet it through `lessonlib.evaluation`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lessonlib.evaluation._scoring import RESAMPLES, SEED, Score, comparison_of
from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def perplexity_of(losses: "pd.DataFrame", *, groups: Sequence[Any] | None = None) -> Score:
    """exp(nats / tokens), both summed over all answers, with a 95% interval.

    It says among how many equally likely tokens the model hesitates at each token of the answer: 1 where it
    is certain and right, the size of the vocabulary for a uniform guess. It depends on the tokenizer: compare
    it between models that share one.

    The interval is a bootstrap over groups (Efron and Tibshirani 1993, chapter 13): 2000 samples of as many
    groups, drawn with replacement, the nats and the tokens of each sample summed and divided as above; its
    ends are the 2.5% and the 97.5% point. Wordings of one question, or answers of one kind, belong in one
    group: they are easy or hard together. Below about ten groups the interval is too narrow.

    Args:
        losses: columns nats and tokens, a row for each answer, from `evaluation.answer_losses`.
        groups: for each row what it belongs to; None: each row is its own group.

    Returns:
        A `Score` whose mean is the perplexity and whose n is the number of groups.

    Raises:
        LessonError: lists of different lengths; no answers.
    """
    import numpy as np

    sums = _sums(losses, groups)
    resampled = _resampled(sums)
    return Score(float(np.exp(_loss(sums))), *_ends(np.exp(resampled)), len(sums))


def compare_perplexity(
    results: "Mapping[str, Mapping[str, pd.DataFrame]]",
    *,
    groups: Mapping[str, Sequence[Any]] | None = None,
) -> "pd.DataFrame":
    """The perplexities of several models on several splits, in the form of `evaluation.compare`.

    With two models or more a last entry named "last / first" holds the ratio of the perplexities with its
    interval: below 1 the last model is the better one. It is paired: each bootstrap sample takes the same
    groups for both models, so that answers which are hard for both do not widen it.

    Args:
        results: model name -> split name -> losses (`evaluation.answer_losses`), first the base, last the
            model in question; the order of the first model's splits is the order of the rows.
        groups: split name -> group of each answer, as for `perplexity_of`.

    Returns:
        A DataFrame for `table`: a row for each split, columns (model, "mean" | "low" | "high" | "n").

    Raises:
        LessonError: no model; models or groups with other splits, other answers (told by their number of
            tokens) or other lengths.
    """
    import numpy as np

    if not results:
        raise LessonError("There is no model to compare. Pass {'base': {...}, 'tuned': {...}}.")
    first, last = next(iter(results)), list(results)[-1]
    for what, by_split in [*results.items(), *([("groups", groups)] if groups is not None else [])]:
        if set(by_split) != set(results[first]):
            raise LessonError(
                "{what!r} has the splits {by_split}, but {first!r} has {results}. Measure the same splits.",
                what=what, by_split=sorted(by_split), first=first, results=sorted(results[first]),
            )
    rows = {}
    for split, its in results[first].items():
        for name in results:
            if list(results[name][split]["tokens"]) != list(its["tokens"]):
                raise LessonError(
                    "Split {split!r}: {first!r} and {name!r} were not measured on the same answers (their "
                    "numbers of tokens differ). Use the same encoded rows for both.",
                    split=split, first=first, name=name,
                )
        of_split = None if groups is None else groups[split]
        scores = {name: perplexity_of(by[split], groups=of_split) for name, by in results.items()}
        if first != last:
            ours, theirs = (_sums(results[name][split], of_split) for name in (last, first))
            ratio = float(np.exp(_loss(ours) - _loss(theirs)))
            spread = np.exp(_resampled(ours) - _resampled(theirs))
            scores[f"{last} / {first}"] = Score(ratio, *_ends(spread), len(ours))
        rows[split] = scores
    return comparison_of(rows)


def _sums(losses: "pd.DataFrame", groups: Sequence[Any] | None) -> "np.ndarray":
    """Nats and tokens of each group that has tokens: shape (groups, 2)."""
    import numpy as np

    if groups is not None and len(groups) != len(losses):
        raise LessonError(
            "There are {count} answers but {count2} groups. Pass the group of each row.",
            count=len(losses), count2=len(groups),
        )
    gathered: dict[Any, list[float]] = {}
    keys = range(len(losses)) if groups is None else groups
    for key, nats, tokens in zip(keys, losses["nats"], losses["tokens"], strict=True):
        if tokens:
            of_group = gathered.setdefault(key, [0.0, 0.0])
            of_group[0] += nats
            of_group[1] += tokens
    if not gathered:
        raise LessonError("There is no answer to measure. Look again at the split.")
    return np.array(list(gathered.values()))


def _loss(sums: "np.ndarray") -> "np.ndarray":
    """Nats by tokens, both summed over the groups, which are the axis before the last: (..., groups, 2)."""
    total = sums.sum(axis=-2)
    return total[..., 0] / total[..., 1]


def _resampled(sums: "np.ndarray") -> "np.ndarray":
    """The loss of each bootstrap sample: shape (RESAMPLES,). As many groups give the same samples."""
    import numpy as np

    drawn = np.random.default_rng(SEED).integers(0, len(sums), size=(RESAMPLES, len(sums)))
    return _loss(sums[drawn])


def _ends(values: "np.ndarray") -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
