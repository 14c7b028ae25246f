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

from lessonlib.runtime._language import LessonError, text
from lessonlib.tools._lookalikes import closest, pathway, shown
from lessonlib.tools._strict import listed, validator

__all__ = ["Problem", "check"]

MAX_CHARACTERS = 4000  # of the arguments' JSON text
MAX_DEPTH = 8  # {"a": [1]} has depth 2
MOST = 20  # problems of one call that are told

JSON_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


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
        errors = list(islice(validator(name, json.dumps(parameters[name])).iter_errors(arguments), MOST))
    except RecursionError:
        raise LessonError(
            vi=f"Schema của {name} lồng quá sâu, hoặc có $ref quay về chính nó. Hãy viết gọn lại.",
            en=f"The schema of {name} is nested too deeply, or has a $ref back to itself. Write it shorter.",
        ) from None
    return list(dict.fromkeys(problem for error in errors for problem in _problems(error, name)))[:MOST]


def measured(value: Any, *, characters: int = MAX_CHARACTERS, depth: int = MAX_DEPTH) -> Problem | None:
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
            return Problem("not_finite", path, text(
                vi=f"{path or 'Giá trị'} là {value}: JSON không có số này. Hãy viết một số hữu hạn.",
                en=f"{path or 'The value'} is {value}, a number that JSON does not have. Write a finite one.",
            ))
        if not (value is None or isinstance(value, tuple(JSON_TYPES))):
            return _no_json(path, type(value).__name__)
        if isinstance(value, str) and not _is_unicode(value):
            return _no_json(path, "lone surrogate")
        if not isinstance(value, dict | list):
            continue
        if level > depth:
            # The path of something so deep is long, and says nothing more than its beginning does.
            return Problem("too_deep", path.split("[")[0].split(".")[0], text(
                vi=f"Lồng nhau quá {depth} tầng. Hãy viết phẳng hơn.",
                en=f"Nested deeper than {depth} levels. Write it flatter.",
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
    name = path or text(vi="Đối số", en="The arguments")
    if keyword == "required":
        for at in [pathway([argument], path) for argument in wanted if argument not in value]:
            yield Problem("missing", at, text(
                vi=f"{tool} cần {at} nhưng không có. Hãy điền vào, hoặc hỏi lại người dùng.",
                en=f"{tool} needs {at}, which is missing. Give it, or ask the user for it.",
            ))
    elif keyword == "additionalProperties":
        known = list(error.schema["properties"]) if "properties" in error.schema else []
        for extra in [argument for argument in value if argument not in known]:
            yield _unexpected(tool, path, extra, known)
    elif keyword == "type" or (keyword in ("anyOf", "oneOf") and _only_types(error)):
        types = listed(wanted) if keyword == "type" else [each for inner in error.context
                                                           for each in listed(inner.validator_value)]
        allowed, given = " | ".join(dict.fromkeys(types)), JSON_TYPES.get(type(value), "null")
        yield Problem("type", path, text(
            vi=f"{name} phải là {allowed}, nhưng {shown(value)} là {given}.",
            en=f"{name} must be {allowed}, but {shown(value)} is {given}.",
        ))
    elif keyword in ("enum", "const"):
        choices = ", ".join(map(shown, [wanted] if keyword == "const" else wanted[:MOST]))
        yield Problem("value", path, text(
            vi=f"{name} phải là một trong: {choices}; không có {shown(value)}.",
            en=f"{name} must be one of {choices}; there is no {shown(value)}.",
        ))
    else:
        rule = keyword if isinstance(wanted, dict | list) else f"{keyword} {shown(wanted)}"
        yield Problem("value", path, text(
            vi=f"{name} là {shown(value)}, trái với quy định trong schema: {rule}.",
            en=f"{name} is {shown(value)}, against the schema's rule: {rule}.",
        ))


def _only_types(error: Any) -> bool:
    return bool(error.context) and all(
        inner.validator == "type" and not inner.relative_path for inner in error.context
    )


def _unexpected(tool: str, path: str, extra: str, known: Sequence[str]) -> Problem:
    near = closest(extra, known)
    listed = ", ".join(known[:MOST]) or "-"
    return Problem("unexpected", pathway([extra], path), text(
        vi=f"{tool} không có đối số {shown(extra)}.{_meant(near)} Các đối số: {listed}.",
        en=f"{tool} has no argument {shown(extra)}.{_meant(near)} Its arguments: {listed}.",
    ))


def _unknown(name: str, known: Sequence[str]) -> Problem:
    listed = ", ".join(known[:MOST]) or "-"
    return Problem("unknown_tool", "", text(
        vi=f"Không có công cụ {shown(name)}.{_meant(closest(name, known))} Các công cụ: {listed}.",
        en=f"There is no tool {shown(name)}.{_meant(closest(name, known))} The tools: {listed}.",
    ))


def _meant(near: str | None) -> str:
    return "" if near is None else text(vi=f" Có phải là {near}?", en=f" Did you mean {near}?")


def _malformed() -> Problem:
    return Problem("malformed", "", text(
        vi='Một lời gọi phải có dạng {"name": "...", "arguments": {...}}.',
        en='A call has to look like {"name": "...", "arguments": {...}}.',
    ))


def _too_large(path: str, characters: int) -> Problem:
    return Problem("too_large", path[:80], text(
        vi=f"Dài hơn {characters} ký tự, hoặc một số quá lớn. Hãy viết ngắn hơn.",
        en=f"Longer than {characters} characters, or a number too large. Write less.",
    ))


def _no_json(path: str, what: str) -> Problem:
    return Problem("type", path[:80], text(
        vi=f"{path[:80] or 'Giá trị'} không phải là JSON ({what}).",
        en=f"{path[:80] or 'The value'} is no JSON ({what}).",
    ))
