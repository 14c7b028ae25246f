"""How right an answer is: a number from 0 to 1 for each, by one of several measures.

It takes lists of strings and gives back lists of numbers, one for each answer. Means, intervals and tables
are the work of `_scoring`, through which these are reached.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lessonlib.runtime._language import LessonError


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
    check_lengths(predictions, references)
    return [float(normalise(p) == normalise(r)) for p, r in zip(predictions, references, strict=True)]


def token_f1(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """F1 = 2PR / (P + R) of the words that prediction and reference share, counted with repetitions.

    As SQuAD's F1 (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1): lower case, punctuation dropped. A
    word is a run of Unicode letters and digits after NFC, so in Vietnamese it is a syllable; there are no
    articles to drop. Two texts without a word score 1, one without a word 0.

    Raises:
        LessonError: no answers, or not as many predictions as references.
    """
    check_lengths(predictions, references)
    return [_f1(words(p), words(r)) for p, r in zip(predictions, references, strict=True)]


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    shared = (Counter(said) & Counter(wanted)).total()
    return 2 * shared / (len(said) + len(wanted))  # equal to 2PR / (P + R)


def words(text: str) -> list[str]:
    """The runs of Unicode letters and digits in a text, in lower case, after NFC."""
    return re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())


def chrf(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF2 of each answer, from 0 to 1: the F-score of character 1- to 6-grams with recall weighing double.

    Computed by sacrebleu (its defaults: white space ignored) after NFC; Popović 2015, chrF: character n-gram
    F-score for automatic MT evaluation. sacrebleu's own scale is 0 to 100.

    Raises:
        LessonError: no answers, or not as many predictions as references.
    """
    from sacrebleu.metrics import CHRF

    check_lengths(predictions, references)
    metric, nfc = CHRF(), partial(unicodedata.normalize, "NFC")
    pairs = zip(map(nfc, predictions), map(nfc, references), strict=True)
    return [metric.sentence_score(said, [wanted]).score / 100 for said, wanted in pairs]


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L of each answer, from 0 to 1: how much of both is one common sequence of words, with gaps.

    F1 = 2PR / (P + R), P = LCS / words said, R = LCS / words wanted; LCS is the length of the longest common
    subsequence. Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, section 3. Unlike
    `token_f1` it counts words only as far as they stand in the same order.

    The numbers are those of the package rouge-score, given `words` in the place of its own tokenizer, which
    keeps a-z and 0-9 alone: to it "nợ" and "nơ" are both "n". The subsequence is found by rapidfuzz, in a
    fraction of the time. Two texts without a word score 1 (0 in that package), one without a word 0.

    Raises:
        LessonError: no answers, or not as many predictions as references.
    """
    from rapidfuzz.distance import LCSseq

    check_lengths(predictions, references)
    scores = []
    for said, wanted in zip(map(words, predictions), map(words, references), strict=True):
        shared = LCSseq.similarity(said, wanted)
        # 2 LCS / (words said + words wanted) is equal to 2PR / (P + R)
        scores.append(2 * shared / (len(said) + len(wanted)) if said or wanted else 1.0)
    return scores


METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "chrf": chrf,
    "rouge_l": rouge_l,
}


def slots_copied(
    predictions: Sequence[str],
    slots: Sequence[Mapping[str, str | None]],
    *,
    references: Sequence[str] | None = None,
) -> list[float]:
    """Of the values that an answer has to repeat (an order number, a town), the share that it does repeat.

    A value counts where it stands in the answer whole: after NFC, whatever the case and the width of blanks,
    with no letter or digit joined to it. So "#9564" is not in "#95644", nor "1.500" in "1.500.000".

    Args:
        predictions: the model's answers.
        slots: for each answer name -> value, as in the column `slots` of customer_support_vi; values that are
            empty or None ask for nothing.
        references: the right answers. With them only those values are asked for that the right answer itself
            repeats (to "thanks for order #60229" it is enough to say "you are welcome").

    Returns:
        A number from 0 to 1 for each answer; NaN where no value is asked for. `mean_score` passes
        over those.

    Raises:
        LessonError: no answers, or lists of different lengths.
    """
    check_lengths(predictions, slots if references is None else references, slots)
    shares = []
    for row, (said, values) in enumerate(zip(predictions, slots, strict=True)):
        asked = [value for value in values.values() if value and value.strip()]
        if references is not None:
            asked = [value for value in asked if _holds(references[row], value)]
        shares.append(sum(_holds(said, value) for value in asked) / len(asked) if asked else math.nan)
    return shares


def _holds(text: str, value: str) -> bool:
    text, value = (" ".join(unicodedata.normalize("NFC", it).casefold().split()) for it in (text, value))
    return bool(re.search(rf"(?<!\w)(?<!\d[.,/]){re.escape(value)}(?!\w|[.,/]\d)", text))


def check_lengths(predictions: Sequence[Any], references: Sequence[Any], groups: Any = None) -> None:
    """Raises LessonError where lists that belong together differ in length, or there is nothing in them."""
    counts = [len(predictions), len(references)] + ([] if groups is None else [len(groups)])
    if len(set(counts)) > 1:
        listed = ", ".join(map(str, counts))
        raise LessonError(
            "Predictions, references (and groups) must be equally many, but they are: {listed}. Check that "
            "they come from the same split.",
            listed=listed,
        )
    if not counts[0]:
        raise LessonError("There is no answer to score: the list is empty. Look again at the split.")
