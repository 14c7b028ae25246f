"""Is a turn right? The model's calls against the calls that were wanted, and where they first part.

The rules and their order are those of the Berkeley Function-Calling Leaderboard's AST checker (BFCL; Patil et
al. 2025, The Berkeley Function Calling Leaderboard: From Tool Use to Agentic Evaluation of Large Language
Models, ICML; package bfcl-eval 2026.3.23): how many calls; for each call its name and its required
arguments; for each argument whether it is wanted, its type and its value; last, optional ones left out.
Calls of one turn may come in any order. A turn that wants no call is right when none is made.

Where this differs, on purpose:

- Strings are equal only when they are the same after Unicode NFC. BFCL first drops case, blanks and the
  characters , . / - _ * ^ so that "1.5" is "15" and "-5 °C" is "5 °C"; `strings="bfcl"` does so too.
- JSON knows one kind of number: 5.0 is right where 5 is wanted, and 5 where 5.0 is, at any depth. BFCL takes
  an int for a float, though not inside a list, and never a float for an int. For both, true is no number.
- Values inside values are compared by these rules at every depth; BFCL's reach one level down.
- A type is an error only where the value is wrong: it says how, not whether.
- Parallel calls are paired as well as they can be. BFCL gives each wanted call in turn the first one that
  fits, which can leave a later one without its partner. Where no pairing is complete, the error is that of
  the nearest call; BFCL says only that there is no match.
- No call where one is wanted is "no_call"; BFCL counts too few. An attempt at a call that cannot be read is
  wrong everywhere; BFCL takes it for an abstention where no call is wanted.
- What is wanted is one value for each argument, as in a row of data. BFCL's lists of possible answers become
  `OneOf` (tests/bfcl.py). In such a list it also takes "" (may be left out) for an empty list.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import LessonError, Translated, tr
from lessonlib.tools._lookalikes import shown

if TYPE_CHECKING:
    from lessonlib.tools._parsing import Parsed

# In the order of checking, so that of two errors the earlier one is the graver.
ERRORS = (
    "unreadable", "called_without_need", "no_call", "call_count", "name", "missing", "unexpected", "type",
    "value", "omitted",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Whether a turn or a call is right; `error` is one of `ERRORS`, `detail` says it to a person."""

    ok: bool
    error: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class OneOf:
    """Any of these values is right. With `optional`, so is leaving the argument out.

    It may stand for the value of an argument, or of a key or an item inside one.
    """

    values: tuple[Any, ...]
    optional: bool = False


_RIGHT = Verdict(True)


def score_turn(
    expected: Sequence[Mapping[str, Any]],
    got: "Parsed",
    schemas: Sequence[Mapping[str, Any]],
    *,
    strings: str = "exact",
) -> Verdict:
    """Judge what the model did in one turn.

    Args:
        expected: the calls that are wanted, {"name", "arguments"}; none where it should not call.
        got: what `parse` read from the model's text.
        schemas: the tools that were offered.
        strings: "exact" (after NFC) or "bfcl" (without case, blanks and , . / - _ * ^).

    Returns:
        A `Verdict`. Anything that looks like a call and cannot be read makes the turn "unreadable": a program
        would have to stop there. Of parallel calls that cannot all be paired, the nearest one's error.

    Raises:
        LessonError: a wanted call of a tool that is not offered; an unknown way to compare strings.
    """
    offered = _offered(schemas, expected, strings)
    if got.problems:
        return Verdict(False, "unreadable", "; ".join(got.problems))
    if not expected and got.calls:
        its = _listed(got.calls)
        return Verdict(False, "called_without_need", tr(
            "no call was needed, but it called {its}", its=its,
        ))  # fmt: skip
    if expected and not got.calls:
        its = _listed(expected)
        detail = tr("it should have called {its}", its=its)
        return Verdict(False, "no_call", detail)
    if len(expected) != len(got.calls):
        its = _listed(got.calls)
        return Verdict(False, "call_count", tr(
            "{wanted} calls wanted, {given} given: {its}",
            wanted=len(expected), given=len(got.calls), its=its,
        ))  # fmt: skip
    return _paired([
        [_judge(wanted, call, offered[wanted["name"]], strings) for call in got.calls] for wanted in expected
    ])  # fmt: skip


# ---------------------------------------------------------------- one call


def _judge(
    expected: Mapping[str, Any], got: Mapping[str, Any], function: Mapping[str, Any], strings: str
) -> Verdict:
    if got["name"] != expected["name"]:
        right, its = expected["name"], said(got["name"])
        detail = tr("{right} wanted, {its} called", right=right, its=its)
        return Verdict(False, "name", detail)
    parameters = function.get("parameters") or {}
    known, wanted, given = parameters.get("properties", {}), expected["arguments"], got["arguments"]
    for name in parameters.get("required", ()):
        if name not in given:
            return _wrong("missing", name, Translated("a required argument is missing"))
    for name, value in given.items():
        if name not in known:
            return _wrong("unexpected", name, Translated("there is no such argument"))
        if name not in wanted:
            return _wrong("unexpected", name, Translated("it should have been left out"))
        if not _equal(wanted[name], value, _STRINGS[strings]):
            error, kind = "value" if _fits(value, known[name]) else "type", known[name].get("type")
            note = f" ({kind})" if error == "type" and isinstance(kind, str) else ""
            right, its = said(wanted[name]) + note, said(value)
            return _wrong(error, name, Translated("{right} wanted, {its} given", right=right, its=its))
    for name, value in wanted.items():
        if name not in given and not _may_be_omitted(value):
            right = said(value)
            return _wrong("omitted", name, Translated("{right} wanted, left out", right=right))
    return _RIGHT


def _wrong(error: str, argument: str, detail: Translated) -> Verdict:
    return Verdict(False, error, f"{said(argument)[1:-1]}: {detail}")


def _equal(wanted: Any, got: Any, same: Callable[[str], str]) -> bool:
    """Is this value right? It goes only as deep as what is wanted, however deep the model's value is."""
    if isinstance(wanted, OneOf):
        return any(_equal(value, got, same) for value in wanted.values)
    if isinstance(wanted, str):
        return isinstance(got, str) and same(wanted) == same(got)
    if isinstance(wanted, bool) or isinstance(got, bool) or wanted is None:
        return wanted is got
    if isinstance(wanted, Mapping):
        return (
            isinstance(got, Mapping)
            and got.keys() <= wanted.keys()
            and all(
                _equal(value, got[key], same) if key in got else _may_be_omitted(value)
                for key, value in wanted.items()
            )
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(got, list | tuple)
            and len(got) == len(wanted)
            and all(_equal(*pair, same) for pair in zip(wanted, got, strict=True))
        )
    return isinstance(got, int | float) and wanted == got


def _may_be_omitted(wanted: Any) -> bool:
    return isinstance(wanted, OneOf) and wanted.optional


def _nfc(value: str) -> str:
    return unicodedata.normalize("NFC", value)


def _as_bfcl(value: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", _nfc(value)).lower().replace("'", '"')


_STRINGS: dict[str, Callable[[str], str]] = {"exact": _nfc, "bfcl": _as_bfcl}


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Is the value of the schema's type, its items and keys too? Types alone: that it is wrong is known."""
    kind = schema.get("type")
    if kind is None:
        choices = schema.get("anyOf") or schema.get("oneOf") or ()
        return not choices or any(_fits(value, choice) for choice in choices)
    kinds = [kind] if isinstance(kind, str) else list(kind)
    if schema.get("nullable"):  # what transformers writes for an optional type
        kinds.append("null")
    if not any(_is_a(value, kind) for kind in kinds):
        return False
    if isinstance(value, Mapping):
        inner = schema.get("properties", {})
        return all(_fits(value[key], inner[key]) for key in value if key in inner)
    if isinstance(value, list | tuple) and isinstance(schema.get("items"), Mapping):
        return all(_fits(item, schema["items"]) for item in value)
    return True


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int | float):
        whole = isinstance(value, int) or value.is_integer()
        return kind == "number" or (kind == "integer" and whole)
    names = {str: "string", type(None): "null", list: "array", tuple: "array", dict: "object"}
    return names.get(type(value)) == kind


# ---------------------------------------------------------------- several calls


def _paired(verdicts: list[list[Verdict]]) -> Verdict:
    """Right where every wanted call (row) can have a right call (column) of its own, by augmenting paths
    (Kuhn 1955, The Hungarian method for the assignment problem); else the best verdict of those left over."""
    taken: dict[int, int] = {}  # column -> row

    def place(row: int, tried: set[int]) -> bool:
        for column, verdict in enumerate(verdicts[row]):
            if verdict.ok and column not in tried:
                tried.add(column)
                if column not in taken or place(taken[column], tried):
                    taken[column] = row
                    return True
        return False

    alone = [row for row in range(len(verdicts)) if not place(row, set())]
    free = [column for column in range(len(verdicts)) if column not in taken]
    left = [verdicts[row][column] for row in alone for column in free]
    return max(left, key=lambda verdict: ERRORS.index(str(verdict.error))) if left else _RIGHT


# ---------------------------------------------------------------- reading and saying


def _offered(
    schemas: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]], strings: str
) -> dict[str, Mapping[str, Any]]:
    """Name -> function of what was offered, once it is sure that all that is wanted is among it."""
    if strings not in _STRINGS:
        raise LessonError(
            "strings={strings!r}: choose 'exact' (every character, after NFC) or 'bfcl'.", strings=strings,
        )
    offered = {its["name"]: its for its in (schema.get("function", schema) for schema in schemas)}
    strange = next((call["name"] for call in expected if call["name"] not in offered), None)
    if strange is not None:
        tools = ", ".join(offered) or "-"
        raise LessonError(
            "The wanted call names {strange!r}, but the tools offered are: {tools}. Score each row with its "
            "own schemas.",
            strange=strange, tools=tools,
        )
    return offered


def _listed(calls: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(said(call["name"])[1:-1] for call in calls[:5]) + (", …" if len(calls) > 5 else "")


def said(value: Any) -> str:
    """A value on one line, cut; of several possible ones the first three. What a model wrote can be anything:
    a number of thousands of digits and nesting without end are no JSON, and shown as "…"."""
    if isinstance(value, OneOf):
        given = [one for one in value.values if one != "" or not value.optional] or list(value.values)
        return " | ".join(map(said, given[:3]))
    try:
        return shown(_first(value))
    except (ValueError, RecursionError):
        return "…"


def _first(value: Any) -> Any:
    """The value with the first possible one for every `OneOf` in it."""
    if isinstance(value, OneOf):
        return _first(value.values[0]) if value.values else None
    if isinstance(value, Mapping):
        return {key: _first(inner) for key, inner in value.items()}
    return [_first(item) for item in value] if isinstance(value, list | tuple) else value
