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

from lessonlib.runtime._language import LessonError
from lessonlib.tools._lookalikes import pathway

MAX_PATTERN_TEXT = 200  # characters that a `pattern` is tried on, and those of the pattern itself
MAX_VARIABLE_PARTS = 3  # in a pattern: k of them cost at most about MAX_PATTERN_TEXT ** k / k! steps
REFERENCE = re.compile(r"#/(\$defs|definitions)/([^/]+)")
# Keywords whose value is a schema, a list of schemas, or a mapping from names to schemas. "enum", "default"
# and the like hold values, and a property may well be called "pattern": a keyword is known by its place.
IN_PLACE = ("allOf", "anyOf", "oneOf", "if", "then", "else", "not")
HOLDS_SCHEMAS = (*IN_PLACE, "items", "prefixItems", "contains", "additionalProperties", "propertyNames",
                 "unevaluatedItems", "unevaluatedProperties")  # fmt: skip
HOLDS_NAMED = ("properties", "$defs", "definitions", "dependentSchemas")
REFUSED = ("$dynamicRef", "$recursiveRef", "patternProperties")
# One part of a harmless pattern: a character, an escape or a class, and how often it comes. No groups, no
# alternatives, no references back: what is left can be tried in polynomial time.
PART = re.compile(
    r"(?:\\[dDwWsS]|\\[^A-Za-z0-9]|\[\^?(?:\\.|[^\]\[\\])+\]|[^\\\[\](){}*+?|^$])"
    r"(\{\d{1,4}(?:,\d{0,4})?\}|[*+?])?"
)


@lru_cache(maxsize=256)
def validator(name: str, parameters: str) -> Any:
    """The jsonschema validator of a tool's parameters (given as JSON text, so that it can be kept).

    Raises:
        LessonError: as `validation.check`.
    """
    import jsonschema
    from referencing import Registry

    schema = json.loads(parameters)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = pathway(error.absolute_path)
        raise LessonError(
            vi=f"Schema của {name} không phải JSON Schema hợp lệ, ở {where or 'gốc'}: {error.message[:200]}.",
            en=f"The schema of {name} is no valid JSON Schema, at {where or 'its root'}: "
            f"{error.message[:200]}.",
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
        if keyword in HOLDS_NAMED:
            yield from (held or {}).values()
        elif held is not None:
            yield from held if isinstance(held, list) else [held]


def _all_schemas(schema: Any) -> Iterator[Any]:
    yield schema
    for inner in _inner(schema, (*HOLDS_SCHEMAS, *HOLDS_NAMED)):
        yield from _all_schemas(inner)


def _check_harmless(name: str, schema: Any, root: Any) -> None:
    if not isinstance(schema, dict):
        return
    refused = next((keyword for keyword in REFUSED if keyword in schema), None)
    inside = REFERENCE.fullmatch(schema.get("$ref", "#/$defs/-"))
    if "$ref" in schema and (inside is None or inside[2] not in root.get(inside[1], {})):
        refused = f"$ref {schema['$ref']!r}"
    if refused is not None:
        raise LessonError(
            vi=f"Schema của {name} có {refused}; lessonlib không dùng (tài liệu khác có thể phải tải từ "
            'mạng, biểu thức trong đó có thể chạy mãi). Hãy chép phần đó vào "$defs" của chính schema này, '
            "hoặc viết hẳn ra tại chỗ.",
            en=f"The schema of {name} has {refused}, which lessonlib does not follow (another document may "
            "have to be fetched over the network, an expression in it could take for ever). Copy that part "
            'into "$defs" of this schema, or write it out in its place.',
        )
    pattern = schema.get("pattern")
    if pattern is not None and not _is_harmless(pattern):
        raise LessonError(
            vi=f"Schema của {name} có pattern {pattern!r}, có thể chạy mãi không xong hoặc chỉ khớp một phần "
            "chuỗi. Hãy viết ^...$ chỉ với ký tự và lớp ký tự ([a-z], \\d), không có nhóm hay |, và nhiều "
            f"nhất {MAX_VARIABLE_PARTS} chỗ lặp không cố định; hoặc dùng enum.",
            en=f"The schema of {name} has the pattern {pattern!r}, which could take for ever or match a part "
            "of a text only. Write ^...$ around characters and classes ([a-z], \\d) alone, without groups or "
            f"|, and with at most {MAX_VARIABLE_PARTS} repetitions of variable length; or use an enum.",
        )


def _is_harmless(pattern: str) -> bool:
    if len(pattern) > MAX_PATTERN_TEXT or not (pattern.startswith("^") and pattern.endswith("$")):
        return False
    at, end, variable = 1, len(pattern) - 1, 0
    while at < end:
        part = PART.match(pattern, at, end)
        if part is None:
            return False
        repeated = part[1]
        variable += repeated is not None and (repeated in "*+?" or "," in repeated)
        at = part.end()
    try:
        re.compile(pattern)
    except (re.error, OverflowError):
        return False
    return variable <= MAX_VARIABLE_PARTS


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    """Takes the place of jsonschema's own keyword, whose search lets a line break follow the end ($)."""
    from jsonschema import ValidationError

    if isinstance(instance, str) and (
        len(instance) > MAX_PATTERN_TEXT or re.fullmatch(pattern[1:-1], instance, re.ASCII) is None
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
    for keyword in HOLDS_NAMED:
        if keyword in new:
            new[keyword] = {name: _closed(inner) for name, inner in new[keyword].items()}
    for keyword in HOLDS_SCHEMAS:
        inside = keyword in IN_PLACE
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
        for inner in _inner(schema, IN_PLACE):
            yield from _in_place(inner)


def listed(value: Any) -> list[Any]:
    """A keyword such as "type", which may hold one value or a list of them, as a list."""
    return value if isinstance(value, list) else [value]
