"""A tool's schema as calls are held to: closed against what it does not name, and harmless to check with.

The schema comes from whoever registered the tool. Two things in it could make the check of a stranger's call
hang or reach out, and are refused: references to other documents, which some libraries fetch over the
network, and regular expressions that can take exponential time.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from lessonlib.runtime._language import LessonError, Translated
from lessonlib.tools._lookalikes import pathway

_MAX_PATTERN_TEXT = 200  # characters that a `pattern` is tried on, and those of the pattern itself
_MAX_VARIABLE_PARTS = 3  # in a pattern: k of them cost at most about _MAX_PATTERN_TEXT ** k / k! steps
_REFERENCE = re.compile(r"#/(\$defs|definitions)/([^/]+)")
# Keywords whose value is a schema, a list of schemas, or a mapping from names to schemas. "enum", "default"
# and the like hold values, and a property may well be called "pattern": a keyword is known by its place.
_IN_PLACE = ("allOf", "anyOf", "oneOf", "if", "then", "else", "not")
_HOLDS_SCHEMAS = (*_IN_PLACE, "items", "prefixItems", "contains", "additionalProperties", "propertyNames",
                 "unevaluatedItems", "unevaluatedProperties")  # fmt: skip
_HOLDS_NAMED = ("properties", "$defs", "definitions", "dependentSchemas")
_REFUSED = ("$dynamicRef", "$recursiveRef", "patternProperties")
# One part of a harmless pattern: a character, an escape or a class, and how often it comes. No groups, no
# alternatives, no references back: what is left can be tried in polynomial time.
_PART = re.compile(
    r"(?:\\[dDwWsS]|\\[^A-Za-z0-9]|\[\^?(?:\\.|[^\]\[\\])+\]|[^\\\[\](){}*+?|^$])"
    r"(\{\d{1,4}(?:,\d{0,4})?\}|[*+?])?"
)


@lru_cache(maxsize=256)
def validator(name: str, parameters: str) -> Any:
    """The jsonschema validator of a tool's parameters (given as JSON text, so that it can be kept).

    Raises:
        LessonError: as `tools.check`.
    """
    import jsonschema
    from referencing import Registry

    schema = json.loads(parameters)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = pathway(error.absolute_path)
        raise LessonError(
            "The schema of {name} is no valid JSON Schema, at {where}: {why}.",
            name=name, where=where or Translated("its root"), why=error.message[:200],
        ) from None
    for part in _all_schemas(schema):
        _check_harmless(name, part, schema)
    kind = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern})
    dates = jsonschema.FormatChecker(["date"])
    # An empty registry: even if a reference got here, there would be nothing to fetch it with.
    return kind(_closed(schema, top=True), registry=Registry(), format_checker=dates)


def _inner(schema: Any, keywords: Iterable[str]) -> Iterator[Any]:
    for keyword in keywords if isinstance(schema, dict) else ():
        held = schema.get(keyword)
        if keyword in _HOLDS_NAMED:
            yield from (held or {}).values()
        elif held is not None:
            yield from held if isinstance(held, list) else [held]


def _all_schemas(schema: Any) -> Iterator[Any]:
    yield schema
    for inner in _inner(schema, (*_HOLDS_SCHEMAS, *_HOLDS_NAMED)):
        yield from _all_schemas(inner)


def _check_harmless(name: str, schema: Any, root: Any) -> None:
    if not isinstance(schema, dict):
        return
    refused = next((keyword for keyword in _REFUSED if keyword in schema), None)
    inside = _REFERENCE.fullmatch(schema.get("$ref", "#/$defs/-"))
    if "$ref" in schema and (inside is None or inside[2] not in root.get(inside[1], {})):
        refused = f"$ref {schema['$ref']!r}"
    if refused is not None:
        raise LessonError(
            "The schema of {name} has {refused}, which lessonlib does not follow (another document may have "
            "to be fetched over the network, an expression in it could take for ever). Copy that part into "
            '"$defs" of this schema, or write it out in its place.',
            name=name, refused=refused,
        )
    pattern = schema.get("pattern")
    if pattern is not None and not _is_harmless(pattern):
        raise LessonError(
            "The schema of {name} has the pattern {pattern!r}, which could take for ever or match a part of "
            "a text only. Write ^...$ around characters and classes ([a-z], \\d) alone, without groups or "
            "|, and with at most {max_variable_parts} repetitions of variable length; or use an enum.",
            name=name, pattern=pattern, max_variable_parts=_MAX_VARIABLE_PARTS,
        )


def _is_harmless(pattern: str) -> bool:
    if len(pattern) > _MAX_PATTERN_TEXT or not (pattern.startswith("^") and pattern.endswith("$")):
        return False
    at, end, variable = 1, len(pattern) - 1, 0
    while at < end:
        part = _PART.match(pattern, at, end)
        if part is None:
            return False
        repeated = part[1]
        variable += repeated is not None and (repeated in "*+?" or "," in repeated)
        at = part.end()
    try:
        re.compile(pattern)
    except (re.error, OverflowError):
        return False
    return variable <= _MAX_VARIABLE_PARTS


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    """Takes the place of jsonschema's own keyword, whose search lets a line break follow the end ($)."""
    from jsonschema import ValidationError

    if isinstance(instance, str) and (
        len(instance) > _MAX_PATTERN_TEXT or re.fullmatch(pattern[1:-1], instance, re.ASCII) is None
    ):
        yield ValidationError(f"does not match {pattern}")


def _closed(schema: Any, *, top: bool = False, branch: bool = False) -> Any:
    """A copy that refuses what it does not name, and allows null where it is `nullable`.

    The branches of anyOf, allOf and so on each know only some of the names: the schema that holds them is
    closed, over all of their names, and they are left open.
    """
    if not isinstance(schema, dict):
        return schema
    new = dict(schema)
    if schema.get("nullable") is True:
        new.update({"type": [*listed(schema["type"]), "null"]} if "type" in schema else {})
        new.update({"enum": [*schema["enum"], None]} if "enum" in schema else {})
        new.update({"anyOf": [*schema["anyOf"], {"type": "null"}]} if "anyOf" in schema else {})
    for keyword in _HOLDS_NAMED:
        if keyword in new:
            new[keyword] = {name: _closed(inner) for name, inner in new[keyword].items()}
    for keyword in _HOLDS_SCHEMAS:
        inside = keyword in _IN_PLACE
        if isinstance(new.get(keyword), list):
            new[keyword] = [_closed(inner, branch=inside) for inner in new[keyword]]
        elif keyword in new:
            new[keyword] = _closed(new[keyword], branch=inside)
    here = list(_in_place(schema))
    said = any({"additionalProperties", "unevaluatedProperties"} & set(part) for part in here)
    names = dict.fromkeys((name for part in here for name in part.get("properties", {})), True)
    if not branch and not said and (top or names):
        new["properties"] = {**names, **new.get("properties", {})}
        new["additionalProperties"] = False
    return new


def _in_place(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for inner in _inner(schema, _IN_PLACE):
            yield from _in_place(inner)


def listed(value: Any) -> list[Any]:
    """A keyword such as "type", which may hold one value or a list of them, as a list."""
    return value if isinstance(value, list) else [value]
