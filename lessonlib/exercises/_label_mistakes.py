"""Mistakes that labels show whatever the chat template: used by the exercises of lessons 02, 03 and 04.

Each function takes the learner's labels `got` and raises `Wrong` where it knows the mistake.
"""

from collections.abc import Sequence

from lessonlib.exercises._exercise import Wrong


def check_count(got: Sequence[int], count: int) -> None:
    """Not one label for each of `count` tokens."""
    if len(got) != count:
        raise Wrong(
            "One label a token: {count} of them, you gave {count2}. Without loss it is -100.",
            count=count, count2=len(got),
        )


def check_shift(got: Sequence[int], want: Sequence[int]) -> None:
    """The right labels, each one place too early."""
    if list(got) == [*want[1:], -100]:
        raise Wrong("The labels are shifted by one. transformers' models shift them: leave them in place.")


def check_mask(got: Sequence[int]) -> None:
    """Where there is loss, and not which token is learnt there."""
    if set(got) <= {0, 1}:
        raise Wrong("That is a mask of 0 and 1. A label is the token's id, or -100 where there is no loss.")
