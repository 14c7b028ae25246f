"""Does a call fit its tool's schema? Says what is wrong so that a model or a person can mend it.

A call is what a stranger wrote. It is first measured (size, depth, numbers that JSON does not have), and only
then held to its schema by the jsonschema library (Draft 2020-12), as `strict` prepares it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lessonlib.runtime._language import LessonError, Translated, tr
from lessonlib.tools._lookalikes import closest, pathway, shown
from lessonlib.tools._strict import listed, validator

_MAX_CHARACTERS = 4000  # of the arguments' JSON text
_MAX_DEPTH = 8  # {"a": [1]} has depth 2
_MOST = 20  # problems of one call that are told

_JSON_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a call.

    Args:
        kind: "malformed" (no name or no arguments), "unknown_tool", "missing", "unexpected", "type",
            "value" (the right type, but not allowed), "too_large", "too_deep" or "not_finite".
        path: the argument, such as "city" or "stops[1].name"; "" for the call as a whole.
        message: what is wrong and what would be right, in the notebook's language, on one line.
    """

    kind: str
    path: str
    message: str

    def __str__(self) -> str:
        return self.message


def check(call: Any, schemas: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Compares a call with the schema of the tool that it names.

    Types are JSON's: true is no integer, "5" is no number, 5 is a number, and 5.0 is an integer. An argument
    that the schema does not name is refused, at any depth, unless the schema says `additionalProperties`.
    `format` is checked for "date" (2026-11-21) alone. `nullable`, which transformers writes for
    `Optional[...]` and JSON Schema does not know, allows null. A text with a `pattern` may have 200
    characters.

    Args:
        call: {"name": str, "arguments": dict}; anything else is a problem, never an exception.
        schemas: tools as transformers and OpenAI write them ({"type": "function", "function": {...}}).

    Returns:
        The problems, none if the call is right; at most 20.

    Raises:
        LessonError: a schema that is no JSON Schema, refers to anything but its own $defs, refers to itself
            without end, holds `patternProperties`, or a `pattern` that is more than ^...$ around characters
            and classes with at most three repetitions of variable length.
    """
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        return [_malformed()]
    name, arguments = call["name"], call.get("arguments")
    parameters = {tool["name"]: tool.get("parameters") or {} for tool in map(_function, schemas)}
    if name not in parameters:
        return [_unknown(name, list(parameters))]
    if not isinstance(arguments, dict):
        return [_malformed()]
    refused = measured(arguments)
    if refused is not None:
        return [refused]
    try:
        errors = list(islice(validator(name, json.dumps(parameters[name])).iter_errors(arguments), _MOST))
    except RecursionError:
        raise LessonError(
            "The schema of {name} is nested too deeply, or has a $ref back to itself. Write it shorter.",
            name=name,
        ) from None
    return list(dict.fromkeys(problem for error in errors for problem in _problems(error, name)))[:_MOST]


def measured(value: Any, *, characters: int = _MAX_CHARACTERS, depth: int = _MAX_DEPTH) -> Problem | None:
    """What makes a value too big or no JSON, or None. Takes no recursion, and stops at the first thing found.

    Args:
        value: anything.
        characters: the most that its JSON text may have.
        depth: how deep lists and objects may be nested.
    """
    whole, waiting, size = value, [(value, "", 1)], 0
    while waiting:
        value, path, level = waiting.pop()
        size += 1 + (len(value) if isinstance(value, str) else 0)
        if size > characters or isinstance(value, int) and value.bit_length() > 1000:
            return _too_large(path, characters)
        if isinstance(value, float) and not math.isfinite(value):
            return Problem("not_finite", path, tr(
                "{what} is {value}, a number that JSON does not have. Write a finite one.",
                what=path or Translated("The value"), value=value,
            ))
        if not (value is None or isinstance(value, tuple(_JSON_TYPES))):
            return _no_json(path, type(value).__name__)
        if isinstance(value, str) and not _is_unicode(value):
            return _no_json(path, "lone surrogate")
        if not isinstance(value, dict | list):
            continue
        if level > depth:
            # The path of something so deep is long, and says nothing more than its beginning does.
            return Problem("too_deep", path.split("[")[0].split(".")[0], tr(
                "Nested deeper than {depth} levels. Write it flatter.", depth=depth,
            ))
        if len(value) > characters:
            return _too_large(path, characters)
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not (isinstance(key, str) and _is_unicode(key)):
                return _no_json(path, "key")
            size += len(key) if isinstance(key, str) else 0
            waiting.append((inner, pathway([key], path), level + 1))
    # Now it is known to be small enough to be written: quotes, commas and escapes count as well.
    return _too_large("", characters) if len(json.dumps(whole, ensure_ascii=False)) > characters else None


def _is_unicode(string: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in string)


def _function(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema.get("function", schema)


# ---------------------------------------------------------------- messages


def _problems(error: Any, tool: str) -> Iterator[Problem]:
    """What one of jsonschema's errors says, in our words."""
    keyword, wanted, value = error.validator, error.validator_value, error.instance
    path = pathway(error.absolute_path)
    name = path or tr("The arguments")
    if keyword == "required":
        for at in [pathway([argument], path) for argument in wanted if argument not in value]:
            yield Problem("missing", at, tr(
                "{tool} needs {at}, which is missing. Give it, or ask the user for it.", tool=tool, at=at,
            ))
    elif keyword == "additionalProperties":
        known = list(error.schema["properties"]) if "properties" in error.schema else []
        for extra in [argument for argument in value if argument not in known]:
            yield _unexpected(tool, path, extra, known)
    elif keyword == "type" or (keyword in ("anyOf", "oneOf") and _only_types(error)):
        types = listed(wanted) if keyword == "type" else [each for inner in error.context
                                                           for each in listed(inner.validator_value)]
        allowed, given = " | ".join(dict.fromkeys(types)), _JSON_TYPES.get(type(value), "null")
        yield Problem("type", path, tr(
            "{name} must be {allowed}, but {value} is {given}.",
            name=name, allowed=allowed, value=shown(value), given=given,
        ))
    elif keyword in ("enum", "const"):
        choices = ", ".join(map(shown, [wanted] if keyword == "const" else wanted[:_MOST]))
        yield Problem("value", path, tr(
            "{name} must be one of {choices}; there is no {value}.",
            name=name, choices=choices, value=shown(value),
        ))
    else:
        rule = keyword if isinstance(wanted, dict | list) else f"{keyword} {shown(wanted)}"
        yield Problem("value", path, tr(
            "{name} is {value}, against the schema's rule: {rule}.", name=name, value=shown(value), rule=rule,
        ))


def _only_types(error: Any) -> bool:
    return bool(error.context) and all(
        inner.validator == "type" and not inner.relative_path for inner in error.context
    )


def _unexpected(tool: str, path: str, extra: str, known: Sequence[str]) -> Problem:
    near = closest(extra, known)
    listed = ", ".join(known[:_MOST]) or "-"
    return Problem("unexpected", pathway([extra], path), tr(
        "{tool} has no argument {extra}.{near} Its arguments: {listed}.",
        tool=tool, extra=shown(extra), near=_meant(near), listed=listed,
    ))


def _unknown(name: str, known: Sequence[str]) -> Problem:
    listed = ", ".join(known[:_MOST]) or "-"
    return Problem("unknown_tool", "", tr(
        "There is no tool {name}.{near} The tools: {listed}.",
        name=shown(name), near=_meant(closest(name, known)), listed=listed,
    ))


def _meant(near: str | None) -> str:
    return "" if near is None else tr(" Did you mean {near}?", near=near)


def _malformed() -> Problem:
    return Problem("malformed", "", tr('A call has to look like {"name": "...", "arguments": {...}}.'))


def _too_large(path: str, characters: int) -> Problem:
    return Problem("too_large", path[:80], tr(
        "Longer than {characters} characters, or a number too large. Write less.", characters=characters,
    ))


def _no_json(path: str, why: str) -> Problem:
    return Problem("type", path[:80], tr(
        "{what} is no JSON ({why}).", what=path[:80] or Translated("The value"), why=why,
    ))
