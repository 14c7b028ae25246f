"""Tool schemas with known flaws: what can only mean one thing is mended, the rest is refused.

Each repair takes and gives a list of tools and leaves alone what it does not know; `checked` then refuses
what is still no schema, with the words of `tools.schemas`.
"""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from lessonlib.data._cleaning import Row
from lessonlib.runtime._language import LessonError
from lessonlib.tools._schemas import schemas as read_schemas

Tool = dict[str, Any]

# JSON Schema's names for what such datasets call otherwise; case does not count.
_TYPES = {
    "dict": "object", "dictionary": "object", "map": "object", "list": "array", "tuple": "array",
    "str": "string", "text": "string", "float": "number", "double": "number", "decimal": "number",
    "int": "integer", "long": "integer", "bool": "boolean", "none": "null", "nonetype": "null",
}  # fmt: skip
_PROPER = ("object", "array", "string", "number", "integer", "boolean", "null")


def mended(repair: Callable[[list[Tool]], list[Tool]]) -> Callable[[str, str], Row]:
    """A step's function: the tools with one repair made; what needs none stays as it is, to the letter."""

    def function(offered: str, _: str) -> Row:
        before = json.loads(offered)
        after = repair(copy.deepcopy(before))
        return {} if after == before else {"tools": json.dumps(after, ensure_ascii=False)}

    return function


def checked(offered: str, _: str) -> Row:
    """A step's function: refuses tools that are still no schemas."""
    found = read_schemas(json.loads(offered))
    for function in _functions(found):
        if "required" in function:
            raise LessonError(
                "{function}: two different 'required', inside and outside of 'parameters'",
                function=function["name"],
            )
    return {"tools": json.dumps(found, ensure_ascii=False)}


def wrap(offered: list[Tool]) -> list[Tool]:
    """{"name", "parameters"} -> {"type": "function", "function": {"name", "parameters"}}."""
    wrapped = []
    for tool in offered:
        if isinstance(tool, dict) and isinstance(tool.get("name"), str) and "function" not in tool:
            inner = {key: value for key, value in tool.items() if key != "type" or value != "function"}
            tool = {"type": "function", "function": inner}
        elif isinstance(tool, dict) and isinstance(tool.get("function"), dict) and "type" not in tool:
            tool = {"type": "function", **tool}
        wrapped.append(tool)
    return wrapped


def complete(offered: list[Tool]) -> list[Tool]:
    """Parameters that are missing or empty are those of a function without arguments; {"city": {"type": ...}}
    without "properties" around it gets them.
    """
    for function in _functions(offered):
        parameters = function.get("parameters")
        if parameters is None or parameters == {}:
            function["parameters"] = {"type": "object", "properties": {}}
        elif isinstance(parameters, dict) and "properties" not in parameters:
            if parameters and all(isinstance(it, dict) and "type" in it for it in parameters.values()):
                function["parameters"] = {"type": "object", "properties": parameters}
            elif isinstance(parameters.get("type"), str) and not set(parameters) - {"type", "required"}:
                parameters["properties"] = {}
        elif isinstance(parameters, dict):
            parameters.setdefault("type", "object")
    return offered


def retype(offered: list[Tool]) -> list[Tool]:
    """"str" -> "string", "dict" -> "object", "Float" -> "number" ...; "any" is a schema without a type."""
    for function in _functions(offered):
        for schema in _schemas(function.get("parameters")):
            said = schema.get("type")
            if isinstance(said, str) and said.casefold() == "any":
                del schema["type"]
            elif isinstance(said, str):
                schema["type"] = _type(said)
            elif isinstance(said, list):
                schema["type"] = [_type(it) if isinstance(it, str) else it for it in said]
    return offered


def require(offered: list[Tool]) -> list[Tool]:
    """Brings "required" to where JSON Schema has it: a list of names, beside "properties".

    It is found beside "parameters", among the properties, as true or false in a property, as a name or None.
    """
    for function in _functions(offered):
        parameters = function.get("parameters")
        beside = function.get("required")
        both = isinstance(parameters, dict) and isinstance(beside, list)
        if both and parameters.get("required") in (None, beside):  # type: ignore[union-attr]
            parameters["required"] = function.pop("required")  # type: ignore[index]
        for schema in _objects(parameters):
            _require(schema)
    return offered


def _require(schema: Tool) -> None:
    properties, said = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return
    if isinstance(said, str):
        schema["required"] = [said]
    elif said is None:
        schema.pop("required", None)
    if isinstance(properties.get("required"), list) and "required" not in schema:
        schema["required"] = properties.pop("required")
    for name, inner in properties.items():
        if isinstance(inner, dict) and isinstance(inner.get("required"), bool) and inner.pop("required"):
            names = schema.setdefault("required", [])
            if isinstance(names, list) and name not in names:
                names.append(name)


def _type(said: str) -> str:
    plain = said.casefold()
    return _TYPES.get(plain, plain if plain in _PROPER else said)


def _functions(offered: list[Tool]) -> Iterator[Tool]:
    for tool in offered:
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict):
            yield tool["function"]


def _objects(schema: Any) -> Iterator[Tool]:
    return (it for it in _schemas(schema) if "properties" in it or "required" in it)


def _schemas(schema: Any) -> Iterator[Tool]:
    """A schema and those inside it. A property may be called "type" or "required": those are no keywords."""
    if not isinstance(schema, dict):
        return
    yield schema
    properties = schema.get("properties")
    inner = list(properties.values()) if isinstance(properties, dict) else []
    for key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "prefixItems"):
        value = schema.get(key)
        inner += value if isinstance(value, list) else [value]
    for it in inner:
        yield from _schemas(it)
