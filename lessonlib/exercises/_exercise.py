"""The mechanism of exercises: check an answer, give a hint, show a solution.

It knows no exercise: their content is in `lessonlib.exercises.lessonNN`. A check never crashes the notebook:
a mistake of the learner, even an exception, comes back as feedback that says what to look at.
"""

import dis
import html
import inspect
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lessonlib.runtime._language import LessonError, Translated, tr
from lessonlib.views._views import Page

_MARKS = {"not attempted": "○", "wrong": "✗", "right": "✓"}
_TINTS = {"not attempted": "128,128,128", "wrong": "218,54,51", "right": "46,160,67"}


def unwritten(*_: object) -> object:
    """The starting point of every exercise that asks for a function."""
    return ...


class Wrong(LessonError):
    """Raised by an exercise's judge for one particular mistake; its message becomes the feedback."""


@dataclass(frozen=True, repr=False)
class Feedback:
    """What a check says: `status` ("not attempted", "wrong" or "right") and the message; as HTML or text."""

    status: str
    message: Translated

    @property
    def vi(self) -> str:
        return self.message.vi

    @property
    def en(self) -> str:
        return self.message.en

    def __str__(self) -> str:
        return f"{_MARKS[self.status]} {_label(self.status)}: {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        tint = _TINTS[self.status]
        said = _prose(str(self.message)).replace("\n", "<br>")
        return (
            f'<div style="border-left:4px solid rgb({tint});background:rgba({tint},.12);padding:.5em .8em">'
            f"<b>{_MARKS[self.status]} {_label(self.status)}</b><br>{said}</div>"
        )


@dataclass(frozen=True, repr=False)
class Exercise:
    """One exercise of a lesson.

    Args:
        title: what is to be done.
        judge: called as judge(answer, **given); returns if the answer is right, else raises `Wrong` with a
            message for that mistake. If the answer is a function, the judge calls it.
        hints: what `hint` shows, in order.
        solve: a real function that solves the exercise; its source is what `solution` shows, and the tests
            run it through `check`.
        praise: what a right answer is told.
        start: the starting point that the learner is given; left untouched, it counts as not attempted. None
            and `...` always do, and so does a function that raises NotImplementedError.
    """

    title: Translated
    judge: Callable[..., None]
    hints: tuple[Translated, ...]
    solve: Callable[..., Any]
    praise: Translated
    start: Any = None

    def check(self, answer: Any = None, **given: Any) -> Feedback:
        """Say whether the answer is right; never raises for what the learner wrote.

        Args:
            answer: the learner's value or function.
            given: objects of the lesson that the judge needs, such as the tokenizer.

        Returns:
            Feedback with `status` "not attempted", "wrong" or "right".
        """
        waiting = Feedback("not attempted", Translated(
            "You have not tried this yet. Replace the `...` and run the cell again. Call .hint() for a hint.",
        ))
        if answer is None or answer is ... or _untouched(answer, self.start):
            return waiting
        try:
            self.judge(answer, **given)
        except LessonError as error:  # Wrong, or lessonlib's own refusal of what the learner passed
            return Feedback("wrong", error.message)
        except NotImplementedError:
            return waiting
        except Exception as error:
            return _of_exception(error, answer)
        return Feedback("right", self.praise)

    def hint(self, number: int = 1) -> Page:
        """The hint with this number, from 1; a higher number than there are hints gives the last."""
        number = min(max(number, 1), len(self.hints))
        head = tr("Hint") + f" {number}/{len(self.hints)}"
        said = str(self.hints[number - 1])
        return Page(f"{head}: {said}", f"<p><b>{head}:</b> {_prose(said)}</p>")

    def solution(self) -> Page:
        """The source of the tested solution."""
        source = inspect.getsource(self.solve)
        return Page(source, f"<pre>{html.escape(source)}</pre>")

    def help(self) -> Page:
        """Hints and solution, folded away until the learner opens them (in plain text: how to call them)."""
        parts = [
            (tr("Hint") + f" {number}", f"<p>{_prose(str(hint))}</p>")
            for number, hint in enumerate(self.hints, start=1)
        ]
        parts.append((tr("Solution"), self.solution().html))
        folded = "".join(f"<details><summary>{head}</summary>{body}</details>" for head, body in parts)
        return Page(str(self), f"<p><b>{_prose(str(self.title))}</b></p>{folded}")

    def __str__(self) -> str:
        calls = tr("Call .check(your_answer) to check, .hint() for a hint, .solution() for the solution.")
        return f"{self.title}\n{calls}"

    __repr__ = __str__


def _label(status: str) -> str:
    return {"not attempted": tr("Not attempted"), "wrong": tr("Wrong"), "right": tr("Right")}[status]


def _prose(said: str) -> str:
    """Escaped, with `code` between backticks as <code>."""
    pieces = html.escape(said).split("`")
    return "".join(f"<code>{piece}</code>" if n % 2 else piece for n, piece in enumerate(pieces))


def _untouched(answer: Any, start: Any) -> bool:
    """Whether the answer is still the starting point: the same instructions, or an equal value."""
    if isinstance(answer, types.FunctionType) and isinstance(start, types.FunctionType):
        return _body(answer) == _body(start)
    try:
        return type(answer) is type(start) and bool(answer == start)
    except Exception:  # arrays and tables have no single truth value: they are not the starting point
        return False


def _body(function: types.FunctionType) -> list[tuple[str, Any]]:
    # Instructions and not co_code, whose indices move with a docstring in some versions of Python.
    return [(step.opname, step.argval) for step in dis.get_instructions(function)]


def _of_exception(error: Exception, answer: Any) -> Feedback:
    """An exception as feedback: type, message, and the line if it was the learner's code that failed."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if isinstance(answer, types.FunctionType) and frame.filename == answer.__code__.co_filename
    ]
    if own:
        place = f"{own[-1].lineno}: {own[-1].line or ''}".rstrip(": ")
        return Feedback("wrong", Translated(
            "Your code stopped with {what}\nAt line {place}", what=what, place=place,
        ))
    kind = type(answer).__name__
    return Feedback("wrong", Translated(
        "An answer of type {kind} could not be checked: {what}\nRead the task again: which type is asked "
        "for?",
        kind=kind, what=what,
    ))
