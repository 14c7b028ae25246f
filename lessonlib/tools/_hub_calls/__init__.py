"""Rows of a dataset of the Hub as conversations with function calls: Jofthomas' Hermes, with thoughts.

Its calls are written as Python writes a dict ({'name': 'f', 'arguments': {}}), in single quotes; a model that
learns from them writes what `json.loads` refuses. `from_hermes` turns tools, calls and results into JSON, in
the columns of the course's own data (data/function_calls), and reports every row that it can't turn, with
the reason. `schemas` mends tool schemas, `turns` reads what was said. Nothing in a row is ever evaluated.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lessonlib.data._cleaning import CleaningReport, Removed, Row, Step, clean, drop_exact_duplicates
from lessonlib.data._reading import LINE
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError, Translated
from lessonlib.tools._hub_calls import _schemas as schemas
from lessonlib.tools._hub_calls import _turns as turns

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["HERMES", "HERMES_REVISION", "from_hermes"]

Change = Callable[[str, str], Row]

HERMES = "Jofthomas/hermes-function-calling-thinking-V1"
# The first digits of the last commit that the dataset's own page showed in 2025 (huggingface.co/datasets/
# Jofthomas/hermes-function-calling-thinking-V1/tree/main: 358 commits, "Upload dataset"). No public source
# was found for all forty: `data.whole_commit` asks the Hub, and refuses if there is no such commit any more.
HERMES_REVISION = "ee5bf6e"


def from_hermes(rows: "Dataset") -> "tuple[Dataset, CleaningReport]":
    """Rows of Hermes' function calling with thoughts, in the course's format for function calls.

    The steps are `_STEPS`. The tools are taken out of the system's text and read as JSON or as a Python
    literal (`_literals`, which has limits); four repairs of schemas can only mean one thing, and each is
    counted by itself. Then rows go that still have a schema which is none, a call that can't be read or is
    cut off, results that do not fit the calls, a call of a tool that was not offered or that does not fit its
    schema; and duplicates. The rest of the system's text goes too: it tells how to write a call, which
    `tools.render` says in its own way.

    Args:
        rows: column conversations (or messages, as the source's notebook renames it): lists of turns, each
            {"role": "system" | "human" | "model" | "tool", "content": str}, as `data.from_hub` gives them.

    Returns:
        (conversations, report). Columns: id, kind, language ("en"), tools, messages; the last two are JSON
        texts. kind is told by the form alone: "call" and "parallel" are one turn, with one call or more;
        "reply" has one turn of calls and then text, "tool_error" the same with an error for a result,
        "several" has more turns of calls, "no_call" has none (whether no tool fitted or an argument was
        missing can't be told). `report.table` counts for each step; `report.removed` lists the rows that
        went: step, line (from 1), reason, and tools and messages as the step met them.

    Raises:
        LessonError: no such column, or one of another form; no row remains.
    """
    name = next((name for name in ("conversations", "messages") if name in rows.column_names), None)
    if name is None:
        there = ", ".join(rows.column_names)
        raise LessonError(
            "There is no column 'conversations' (or 'messages'); the data has: {there}. Take them with "
            "data.from_hub.",
            there=there,
        )
    raw = [_raw(number, said) for number, said in enumerate(rows[name], start=1)]
    from datasets import Dataset

    left, report = clean(
        Dataset.from_dict({"tools": [""] * len(raw), "messages": raw}),
        steps=_STEPS,
        columns=("tools", "messages"),
    )
    made = [
        {
            "id": f"hermes-{row[LINE]:05d}",
            "kind": turns.kind(json.loads(row["messages"])),
            "language": "en",
            "tools": row["tools"],
            "messages": row["messages"],
        }
        for row in left
    ]
    return Dataset.from_list(made), report


def _raw(number: int, said: Any) -> str:
    """A conversation as JSON text, which is what a step can keep and show."""
    if said is None:
        return "[]"
    if isinstance(said, list) and all(map(_is_turn, said)):
        return json.dumps([{"role": it["role"], "content": it["content"]} for it in said], ensure_ascii=False)
    raise LessonError(
        "Row {number}: a conversation must be a list of {{'role': str, 'content': str}}, but this one is "
        "{said}.",
        number=number, said=str(said)[:80],
    )


def _is_turn(it: Any) -> bool:
    said = [it.get("role", ...), it.get("content", ...)] if isinstance(it, dict) else [...]
    return all(value is None or isinstance(value, str) for value in said)


def _step(name: str, function: Change, what: Translated) -> Step:
    """A step from a function of a row's tools and messages, which gives what changes, or raises to refuse."""

    def rule(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
        outcomes: list[Row | Removed] = []
        for row in rows:
            try:
                outcomes.append({**row, **function(row["tools"], row["messages"])})
            except LessonError:
                outcomes.append(Removed(_why(function, row)))
        return outcomes

    return Step(name, what, rule)


def _why(function: Change, row: Row) -> Translated:
    """Why a row is refused, in both languages: `tools.parse` and `tools.check` speak one at a time."""
    spoken, said = language.current(), {}
    for one in language.LANGUAGES:
        language.use(one)
        try:
            function(row["tools"], row["messages"])
        except LessonError as refused:
            said[one] = refused.message[one]
        finally:
            language.use(spoken)
    return Translated.of(**said)


_STEPS: tuple[Step, ...] = (
    _step("roles", turns.in_order, Translated("drop rows with turns out of order")),
    _step("tools", turns.offered, Translated("read the tools")),
    _step("wrapper", schemas.mended(schemas.wrap), Translated("wrap tools in {'type', 'function'}")),
    _step("parameters", schemas.mended(schemas.complete), Translated("add a missing 'properties'")),
    _step("types", schemas.mended(schemas.retype),
          Translated("turn Python's names of types into JSON Schema's")),
    _step("required", schemas.mended(schemas.require), Translated("put 'required' in its place")),
    _step("schemas", schemas.checked, Translated("drop rows with a broken schema")),
    _step("calls", turns.called, Translated("turn calls into JSON, drop what can't be read")),
    _step("results", turns.answered, Translated("match results and calls")),
    _step("offered", turns.known, Translated("drop calls of a tool not offered")),
    _step("valid", turns.valid, Translated("drop calls against the schema")),
    Step("same", Translated("drop exact duplicates"), drop_exact_duplicates),
)  # fmt: skip
