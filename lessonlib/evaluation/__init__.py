"""How good is it? Answers, metrics, intervals, perplexity, and two models compared by their logits.

It only asks models; it never changes one.
"""

from lessonlib.evaluation._answers import answer_loss, answer_losses, answers, continuations
from lessonlib.evaluation._likelihood import compare_perplexity
from lessonlib.evaluation._metrics import exact_match, slots_copied
from lessonlib.evaluation._parity import packing_leak, parity
from lessonlib.evaluation._scoring import by, compare, mean_score, save_metrics, table

__all__ = [
    "answer_loss",
    "answer_losses",
    "answers",
    "by",
    "compare",
    "compare_perplexity",
    "continuations",
    "exact_match",
    "mean_score",
    "packing_leak",
    "parity",
    "save_metrics",
    "slots_copied",
    "table",
]
