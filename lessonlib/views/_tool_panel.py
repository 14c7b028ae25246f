"""Talk to a model that calls functions, and see each step: thought, call, validation, result, answer.

As HTML and as text, with the same words in both. All that a model or a tool wrote is a stranger's: in HTML it
is escaped, what cannot be seen is written out (\\u202e), and in text its lines are set in, so that none of
them can pass for a line of ours.
"""

import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import LessonError, tr
from lessonlib.views._views import Page

if TYPE_CHECKING:
    from lessonlib.tools._execution import Functions
    from lessonlib.tools._loop import Conversation, Step

_LONGEST = 4000  # characters of one entry that are shown
_GREEN, _RED, _GREY, _BLUE = "46,160,67", "218,54,51", "128,128,128", "56,139,253"
_TINTS = {
    "question": _BLUE,
    "answer": _BLUE,
    "valid": _GREEN,
    "problem": _RED,
    "error": _RED,
    "stopped": _RED,
}
_MARKS = {"valid": "✓ ", "problem": "✗ ", "error": "✗ ", "stopped": "✗ "}


@dataclass(frozen=True)
class _Entry:
    """One thing to be shown: `kind` says which, `said` is what was written, by whomever."""

    kind: str
    said: str


def show(conversation: "Conversation") -> Page:
    """One conversation with tools, step by step.

    Args:
        conversation: what `tools.converse` gives.

    Returns:
        Page: for each turn of the model its thought, its calls as JSON, whether they are valid or what is
        wrong with them, what the tools gave back, and the answer; at the end, why the loop stopped, unless
        the model answered. An entry of more than 4,000 characters is cut, and says so.
    """
    return _page(list(_entries(conversation)))


def panel(
    generate: Callable[[list[dict[str, Any]]], str],
    functions: "Functions",
    *,
    schemas: Sequence[Mapping[str, Any]] | None = None,
    questions: str | Sequence[str] = (),
    max_turns: int = 6,
    max_repeats: int = 2,
    time_limit: float = 5.0,
    size_limit: int = 4000,
) -> Any:
    """A box to ask a model with tools; without widgets, its answers to the sample questions, as text.

    Each question is a conversation of its own. In the box earlier ones stay above it until they are cleared,
    and an error of a run is shown there; without widgets, an error is raised.

    Args:
        generate: from the messages so far, what the model writes next: see `tools.generator`.
        functions: the tools that may run, as in `tools.converse`.
        schemas: their schemas; by default they are made from the functions.
        questions: one or several samples that are answered at once where no widget can be shown (ipywidgets
            is missing, or LESSONLIB_HEADLESS=1); in the box, the first one is filled in.
        max_turns, max_repeats, time_limit, size_limit: the bounds of `tools.converse`.

    Returns:
        An ipywidgets box, or a Page.

    Raises:
        LessonError: without widgets, what `tools.converse` refuses, and an empty question.
    """
    from lessonlib.runtime._detect import headless

    asked = [questions] if isinstance(questions, str) else list(questions)

    def answer(question: str) -> Page:
        from lessonlib.tools import converse

        if not question.strip():
            raise LessonError("The question is empty. Write what you want to know, then press Ask.")
        return show(
            converse(
                generate,
                [{"role": "user", "content": question}],
                functions,
                schemas=schemas,
                max_turns=max_turns,
                max_repeats=max_repeats,
                time_limit=time_limit,
                size_limit=size_limit,
            )
        )

    if not headless():
        try:
            import ipywidgets
        except ImportError:
            pass
        else:
            return _box(ipywidgets, answer, asked[0] if asked else "")
    if not asked:
        said = tr("The panel cannot be shown here. Pass questions=[...] to see each step as text.")
        return Page(said, f"<p>{html.escape(said)}</p>")
    pages = [answer(question) for question in asked]
    return Page("\n\n".join(map(str, pages)), "".join(page.html for page in pages))


# ---------------------------------------------------------------- what is said


def _entries(conversation: "Conversation") -> Iterator[_Entry]:
    for message in conversation.messages[: _given(conversation)]:
        yield from _of_message(message)
    for step in conversation.steps:
        yield from _of_step(step)
    if conversation.stopped != "answered":
        yield _Entry("stopped", _why(conversation.stopped))


def _given(conversation: "Conversation") -> int:
    """How many messages were there before the model was asked: all that the steps did not add."""
    added = 0
    for step in conversation.steps:
        if step.results:
            added += 1 + len(step.results)  # the turn with its calls, then one message for each result
        else:
            added += bool(step.parsed.content.strip())
    return len(conversation.messages) - added


def _of_message(message: Mapping[str, Any]) -> Iterator[_Entry]:
    kind = {"user": "question", "assistant": "answer", "tool": "result"}.get(message["role"], "system")
    if message.get("thinking"):
        yield _Entry("thought", message["thinking"])
    for call in message.get("tool_calls") or []:
        yield _Entry("call", _json(call["function"]))
    if message.get("content"):
        yield _Entry(kind, message["content"])


def _of_step(step: "Step") -> Iterator[_Entry]:
    parsed = step.parsed
    if parsed.thinking is not None:
        yield _Entry("thought", parsed.thinking)
    if parsed.problems:
        yield _Entry("written", step.raw)  # what cannot be read is shown as it came
    elif parsed.content.strip() and parsed.calls:
        yield _Entry("text", parsed.content)
    for call in parsed.calls:
        yield _Entry("call", _json(call))
    for note in parsed.repaired:
        yield _Entry("note", note)
    problems = [*parsed.problems, *map(str, step.problems)]
    for problem in problems:
        yield _Entry("problem", problem)
    if parsed.calls and not problems:
        yield _Entry("valid", tr("valid"))
    for result in step.results:
        content = result["content"]
        failed = isinstance(content, dict) and set(content) == {"error"}
        said = f"{result['name']}: {content['error']}" if failed else _json(result)
        yield _Entry("error" if failed else "result", said)
    if not parsed.calls and not parsed.problems:
        yield _Entry("answer", parsed.content.strip() or tr("(empty)"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _label(kind: str) -> str:
    return {
        "system": tr("system"),
        "question": tr("question"),
        "thought": tr("thought"),
        "written": tr("written"),
        "text": tr("text"),
        "call": tr("call"),
        "note": tr("note"),
        "valid": tr("validation"),
        "problem": tr("validation"),
        "result": tr("result"),
        "error": tr("error"),
        "answer": tr("answer"),
        "stopped": tr("stopped"),
    }[kind]


def _why(reason: str) -> str:
    """Why there is no answer, and what can be done."""
    reasons = {
        "empty": tr("the model wrote nothing more"),
        "max_turns": tr("no turns are left; max_turns may be raised"),
        "repeated_call": tr("one and the same call came too often (max_repeats)"),
        "too_many_calls": tr("too many calls in one turn"),
        "unreadable": tr("twice, no call could be read"),
    }
    return reasons.get(reason, reason)


# ---------------------------------------------------------------- how it looks


def _page(entries: Sequence[_Entry]) -> Page:
    shown = [(_label(entry.kind), _MARKS.get(entry.kind, "") + _seen(entry.said)) for entry in entries]
    wide = max((len(label) for label, _ in shown), default=0) + 2
    plain = [f"{label + ':':{wide}}" + said.replace("\n", "\n" + " " * wide) for label, said in shown]
    rows = [_row(entry.kind, label, said) for entry, (label, said) in zip(entries, shown, strict=True)]
    return Page("\n".join(plain), f'<div style="margin:0 0 1em">{"".join(rows)}</div>')


def _row(kind: str, label: str, said: str) -> str:
    tint = _TINTS.get(kind, _GREY)
    code = "font-family:monospace;" if kind in ("call", "result", "written") else ""
    return (
        f'<div style="border-left:4px solid rgb({tint});padding:.15em .8em;margin:.15em 0;text-align:left">'
        f'<b>{html.escape(label)}:</b> <span style="{code}white-space:pre-wrap;overflow-wrap:anywhere">'
        f"{html.escape(said)}</span></div>"
    )


def _seen(said: str) -> str:
    """Cut to what can be looked at; whatever cannot be seen, or would turn the line round, is written out."""
    cut = said if len(said) <= _LONGEST else said[:_LONGEST] + tr("… (cut)")
    return "".join(letter if letter.isprintable() or letter == "\n" else _code(letter) for letter in cut)


def _code(letter: str) -> str:
    return f"\\u{ord(letter):04x}"


# ---------------------------------------------------------------- the widgets


def _box(widgets: Any, answer: Callable[[str], Page], question: str) -> Any:
    """Earlier questions with their steps, and below them a text box, two buttons and what is going on."""
    history: list[str] = []
    shown, status = widgets.HTML(), widgets.HTML()
    asked = widgets.Text(
        value=question,
        description=tr("Question"),
        layout=widgets.Layout(width="95%"),
    )
    ask = widgets.Button(description=tr("Ask"), button_style="primary")
    clear = widgets.Button(description=tr("Clear"))

    def on_ask(_: Any) -> None:
        ask.disabled = clear.disabled = True  # one question at a time
        said = asked.value
        status.value = tr("The model is at work…")
        try:
            page = answer(said)
        except Exception as error:  # a stack trace under a widget is lost or frightens; say it in the panel
            what = str(error) if isinstance(error, LessonError) else f"{type(error).__name__}: {error}"
            page = _page([_Entry("question", said), _Entry("error", what)])
        finally:
            status.value = ""
            ask.disabled = clear.disabled = False
        history.append(page.html)
        shown.value = "".join(history)

    def on_clear(_: Any) -> None:
        history.clear()
        shown.value = ""

    ask.on_click(on_ask)
    clear.on_click(on_clear)
    return widgets.VBox([shown, asked, widgets.HBox([ask, clear]), status])
