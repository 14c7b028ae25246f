"""Scores answers and says how sure the score is: three metrics, an interval for each, models side by side.

It never sees a model: it takes lists of strings, and gives back numbers and DataFrames. Lessons meet it
through `lessonlib.evaluation`.
"""

import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.language import LessonError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

RESAMPLES = 2000  # bootstrap samples; the ends of a 95% interval then move by less than a point between seeds
SEED = 0
Z = 1.959963984540054  # 97.5% point of the standard normal distribution: a two-sided 95% interval


# ---------------------------------------------------------------- metrics: a score in [0, 1] for each answer


def normalise(text: str) -> str:
    """The form in which `exact_match` compares: Unicode NFC, each run of white space one space, none at the
    ends, and one full stop at the very end dropped (a second one stays). Case, other punctuation and the
    place of Vietnamese tone marks (hoà, hòa) are kept: those differences count as wrong."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return text.removesuffix(".").rstrip()


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """1.0 where prediction and reference are equal after `normalise`, else 0.0.

    Raises:
        LessonError: no answers, or not as many predictions as references.
    """
    _check_lengths(predictions, references)
    return [float(normalise(p) == normalise(r)) for p, r in zip(predictions, references, strict=True)]


def token_f1(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """F1 = 2PR / (P + R) of the words that prediction and reference share, counted with repetitions.

    As SQuAD's F1 (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1): lower case, punctuation dropped. A
    word is a run of Unicode letters and digits after NFC, so in Vietnamese it is a syllable; there are no
    articles to drop. Two texts without a word score 1, one without a word 0.

    Raises:
        LessonError: no answers, or not as many predictions as references.
    """
    _check_lengths(predictions, references)
    return [_f1(p, r) for p, r in zip(predictions, references, strict=True)]


def _f1(prediction: str, reference: str) -> float:
    said, wanted = _words(prediction), _words(reference)
    if not said or not wanted:
        return float(said == wanted)
    shared = (said & wanted).total()
    return 2 * shared / (said.total() + wanted.total())  # equal to 2PR / (P + R)


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", unicodedata.normalize("NFC", text).lower()))


def chrf(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF2 of each answer, from 0 to 1: the F-score of character 1- to 6-grams with recall weighing double.

    Computed by sacrebleu (its defaults: white space ignored) after NFC; Popović 2015, chrF: character n-gram
    F-score for automatic MT evaluation. sacrebleu's own scale is 0 to 100.

    Raises:
        LessonError: no answers, or not as many predictions as references.
    """
    from sacrebleu.metrics import CHRF

    _check_lengths(predictions, references)
    metric, nfc = CHRF(), partial(unicodedata.normalize, "NFC")
    pairs = zip(map(nfc, predictions), map(nfc, references), strict=True)
    return [metric.sentence_score(said, [wanted]).score / 100 for said, wanted in pairs]


METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "chrf": chrf,
}


def _check_lengths(predictions: Sequence[str], references: Sequence[str], groups: Any = None) -> None:
    counts = [len(predictions), len(references)] + ([] if groups is None else [len(groups)])
    if len(set(counts)) > 1:
        listed = ", ".join(map(str, counts))
        raise LessonError(
            vi=f"Số câu trả lời, số đáp án (và số nhóm) phải bằng nhau, nhưng đang là: {listed}. "
            "Hãy kiểm tra xem chúng có lấy từ cùng một tập dữ liệu không.",
            en=f"Predictions, references (and groups) must be equally many, but they are: {listed}. "
            "Check that they come from the same split.",
        )
    if not predictions:
        raise LessonError(
            vi="Không có câu trả lời nào để chấm: danh sách rỗng. Hãy xem lại tập dữ liệu.",
            en="There is no answer to score: the list is empty. Look again at the split.",
        )


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


def score(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    metric: str = "exact_match",
    groups: Sequence[Any] | None = None,
) -> Score:
    """The mean of a metric with a 95% interval.

    Wordings of one question stand or fall together, so they are not independent evidence: scores are averaged
    within each group first, the mean is the mean of the groups, and the interval knows only of groups (Miller
    2024, Adding Error Bars to Evals, arXiv:2411.00640).

    - exact match: `wilson(mean, n)` with n groups. Right where a group is all right or all wrong, too wide
      (on the safe side) where it is mixed. It stays honest at 0 and at 1.
    - other metrics: `bootstrap` over the groups. With all groups equal its interval has no width, and below
      about ten groups it is too narrow.

    Args:
        predictions: the model's answers.
        references: the right answers.
        metric: "exact_match", "token_f1" or "chrf".
        groups: for each answer what it belongs to, such as the fact's id; None: each answer is its own group.

    Returns:
        A `Score`.

    Raises:
        LessonError: unknown metric, no answers, lists of different lengths.
    """
    return _scored(_by_group(predictions, references, metric, groups), metric)


def _scored(values: "np.ndarray", metric: str) -> Score:
    mean, n = float(values.mean()), len(values)
    return Score(mean, *(wilson(mean, n) if metric == "exact_match" else bootstrap(values)), n)


def _by_group(
    predictions: Sequence[str], references: Sequence[str], metric: str, groups: Sequence[Any] | None
) -> "np.ndarray":
    """The metric's mean of each group, in the order in which groups first appear: shape (groups,)."""
    import numpy as np

    if metric not in METRICS:
        near = get_close_matches(metric, METRICS, n=1)
        known = ", ".join(METRICS)
        raise LessonError(
            vi=f"Không có độ đo {metric!r}."
            + (f" Có phải ý bạn là {near[0]!r}?" if near else "")
            + f" Các độ đo có sẵn: {known}.",
            en=f"There is no metric {metric!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
            + f" There are: {known}.",
        )
    _check_lengths(predictions, references, groups)
    gathered: dict[Any, list[float]] = {}
    keys = range(len(predictions)) if groups is None else groups
    for key, value in zip(keys, METRICS[metric](predictions, references), strict=True):
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

    With two models or more, a last entry named "last - first" holds the paired difference: per group the last
    model's score minus the first's, with the `bootstrap` interval of its mean. Pairing takes out what is hard
    for both (Koehn 2004, Statistical significance tests for machine translation evaluation). Where all groups
    differ by the same amount that interval has no width: then read the models' own intervals.

    Args:
        results: model name -> split name -> answers, first the base, last the model in question.
        references: split name -> right answers; its order is the order of the rows.
        metric: as for `score`.
        groups: split name -> group of each answer, as for `score`.

    Returns:
        A DataFrame: a row for each split, columns (model, "mean" | "low" | "high" | "n").

    Raises:
        LessonError: no model, or a model whose splits are not those of `references`; and those of `score`.
    """
    import pandas as pd

    if not results:
        raise LessonError(
            vi="Chưa có mô hình nào để so sánh. Hãy truyền vào {'base': {...}, 'tuned': {...}}.",
            en="There is no model to compare. Pass {'base': {...}, 'tuned': {...}}.",
        )
    for what, by_split in [*results.items(), *([("groups", groups)] if groups is not None else [])]:
        if set(by_split) != set(references):
            raise LessonError(
                vi=f"{what!r} có các tập {sorted(by_split)}, nhưng đáp án có {sorted(references)}. "
                "Hãy chấm cùng những tập đó.",
                en=f"{what!r} has the splits {sorted(by_split)}, the references have {sorted(references)}. "
                "Evaluate the same splits.",
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
        rows[split] = {(name, part): value for name, s in scores.items() for part, value in vars(s).items()}
    frame = pd.DataFrame.from_dict(rows, orient="index").loc[list(references)]
    frame.columns = pd.MultiIndex.from_tuples(frame.columns, names=["model", None])
    return frame.rename_axis(index="split")


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
                vi=f"{where} là {value}, không phải số hữu hạn. Hãy tìm xem nó hỏng từ bước nào rồi hãy lưu.",
                en=f"{where} is {value}, not a finite number. Find out where it broke before saving it.",
            )
        return round(value, 4) + 0.0
    return value
