"""Talk to a model that calls functions, and see each step: thought, call, validation, result, answer.

As HTML and as text, with the same words in both. All that a model or a tool wrote is a stranger's: in HTML it
is escaped, what cannot be seen is written out (\\u202e), and in text its lines are set in, so that none of
them can pass for a line of ours.
"""

import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import LessonError, Translated, tr
from lessonlib.views._views import Page, in_words, shown_widgets

if TYPE_CHECKING:
    from lessonlib.tools._execution import Functions
    from lessonlib.tools._loop import Conversation, Step

_json = partial(json.dumps, ensure_ascii=False)
_LONGEST = 4000  # characters of one entry that are shown
_GREEN, _RED, _GREY, _BLUE = "46,160,67", "218,54,51", "128,128,128", "56,139,253"
_ENTRY = "padding:.15em .8em;margin:.15em 0;text-align:left"
_WRITTEN = "white-space:pre-wrap;overflow-wrap:anywhere"
# What is shown, one entry after the other: its kind, and what was written, by whomever.
_Entry = tuple[str, str]
_KINDS = {  # label, tint, mark
    "system": (Translated("system"), _GREY, ""),
    "question": (Translated("question"), _BLUE, ""),
    "thought": (Translated("thought"), _GREY, ""),
    "written": (Translated("written"), _GREY, ""),
    "text": (Translated("text"), _GREY, ""),
    "call": (Translated("call"), _GREY, ""),
    "note": (Translated("note"), _GREY, ""),
    "valid": (Translated("validation"), _GREEN, "✓ "),
    "problem": (Translated("validation"), _RED, "✗ "),
    "result": (Translated("result"), _GREY, ""),
    "error": (Translated("error"), _RED, "✗ "),
    "answer": (Translated("answer"), _BLUE, ""),
    "stopped": (Translated("stopped"), _RED, "✗ "),
}
_REASONS = {  # why there is no answer, and what can be done
    "empty": Translated("the model wrote nothing more"),
    "max_turns": Translated("no turns are left; max_turns may be raised"),
    "repeated_call": Translated("one and the same call came too often (max_repeats)"),
    "too_many_calls": Translated("too many calls in one turn"),
    "unreadable": Translated("twice, no call could be read"),
}


def show(conversation: "Conversation") -> Page:
    """What `tools.converse` gives, step by step; at the end, why it stopped, unless the model answered.

    An entry of more than 4,000 characters is cut, and says so.
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
    asked = [questions] if isinstance(questions, str) else list(questions)

    def answer(question: str) -> Page:
        from lessonlib.tools import converse

        if not question.strip():
            raise LessonError("The question is empty. Write what you want to know, then press Ask.")
        conversation = converse(
            generate, [{"role": "user", "content": question}], functions, schemas=schemas,
            max_turns=max_turns, max_repeats=max_repeats, time_limit=time_limit, size_limit=size_limit,
        )
        return show(conversation)

    if widgets := shown_widgets():
        return _box(widgets, answer, asked[0] if asked else "")
    if not asked:
        return Page.of(tr("The panel cannot be shown here. Pass questions=[...] to see each step as text."))
    pages = [answer(question) for question in asked]
    return Page("\n\n".join(map(str, pages)), "".join(page.html for page in pages))


def _entries(conversation: "Conversation") -> Iterator[_Entry]:
    for message in conversation.messages[: _given(conversation)]:
        yield from _of_message(message)
    for step in conversation.steps:
        yield from _of_step(step)
    if conversation.stopped != "answered":
        yield "stopped", str(_REASONS.get(conversation.stopped, conversation.stopped))


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
        yield "thought", message["thinking"]
    for call in message.get("tool_calls") or []:
        yield "call", _json(call["function"])
    if message.get("content"):
        yield kind, message["content"]


def _of_step(step: "Step") -> Iterator[_Entry]:
    parsed = step.parsed
    if parsed.thinking is not None:
        yield "thought", parsed.thinking
    if parsed.problems:
        yield "written", step.raw  # what cannot be read is shown as it came
    elif parsed.content.strip() and parsed.calls:
        yield "text", parsed.content
    for call in parsed.calls:
        yield "call", _json(call)
    for note in parsed.repaired:
        yield "note", note
    problems = [*parsed.problems, *map(str, step.problems)]
    for problem in problems:
        yield "problem", problem
    if parsed.calls and not problems:
        yield "valid", tr("valid")
    for result in step.results:
        content = result["content"]
        failed = isinstance(content, dict) and set(content) == {"error"}
        said = f"{result['name']}: {content['error']}" if failed else _json(result)
        yield "error" if failed else "result", said
    if not parsed.calls and not parsed.problems:
        yield "answer", parsed.content.strip() or tr("(empty)")


def _page(entries: Sequence[_Entry]) -> Page:
    wide = max((len(str(_KINDS[kind][0])) for kind, _ in entries), default=0) + 2
    plain, rows = [], []
    for kind, said in entries:
        label, tint, mark = _KINDS[kind]
        shown = mark + _seen(said)
        plain.append(f"{label}:".ljust(wide) + shown.replace("\n", "\n" + " " * wide))
        code = "font-family:monospace;" if kind in ("call", "result", "written") else ""
        rows.append(
            f'<div style="border-left:4px solid rgb({tint});{_ENTRY}"><b>{html.escape(str(label))}:</b> '
            f'<span style="{code}{_WRITTEN}">{html.escape(shown)}</span></div>'
        )
    return Page("\n".join(plain), f'<div style="margin:0 0 1em">{"".join(rows)}</div>')


def _seen(said: str) -> str:
    """Cut to what can be looked at; whatever cannot be seen, or would turn the line round, is written out."""
    cut = said if len(said) <= _LONGEST else said[:_LONGEST] + tr("… (cut)")
    return "".join(it if it.isprintable() or it == "\n" else f"\\u{ord(it):04x}" for it in cut)


def _box(widgets: Any, answer: Callable[[str], Page], question: str) -> Any:
    """Earlier questions with their steps, and below them a text box, two buttons and what is going on."""
    history: list[str] = []
    shown, status = widgets.HTML(), widgets.HTML()
    wide = widgets.Layout(width="95%")
    asked = widgets.Text(value=question, description=tr("Question"), layout=wide)
    ask = widgets.Button(description=tr("Ask"), button_style="primary")
    clear = widgets.Button(description=tr("Clear"))

    def on_ask(_: Any) -> None:
        ask.disabled = clear.disabled = True  # one question at a time
        said = asked.value
        status.value = tr("The model is at work…")
        try:
            page = answer(said)
        except Exception as error:  # a stack trace under a widget is lost or frightens; say it in the panel
            page = _page([("question", said), ("error", in_words(error))])
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
