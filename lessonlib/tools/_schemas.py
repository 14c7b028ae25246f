"""Tools as JSON Schemas: made from Python functions, or taken as they are and checked.

A tool is described the way OpenAI's interface and transformers' chat templates take it:
{"type": "function", "function": {"name", "description", "parameters": <JSON Schema of the arguments>}}. From
a function it is made by transformers' own `get_json_schema`, which reads the type hints and a docstring in
Google's style (https://huggingface.co/docs/transformers/chat_extras). Here its errors say what to mend, and
what it lets pass although no call could ever be right, such as *args, is refused.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from lessonlib.runtime._language import LessonError

Tool = Callable | Mapping[str, Any]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")  # OpenAI's rule, and the dots of the Berkeley leaderboard


def schema(function: Callable) -> dict[str, Any]:
    """The JSON Schema of a Python function, as transformers' `get_json_schema` makes it.

    One thing is said differently: an argument that may be None has "nullable" there, a word that JSON Schema
    does not know and validators pass over. Here its type lists "null", which they understand.

    Args:
        function: with a type hint for each argument and a docstring that describes the function and, under
            "Args:", each argument. `Literal["a", "b"]`, or `(choices: ["a", "b"])` at the end of an
            argument's description, lists the allowed values; an argument with a default is optional.

    Returns:
        {"type": "function", "function": {"name", "description", "parameters"}}, with "return" where the
        function has a hint for what it returns. The defaults are not in it.

    Raises:
        LessonError: no function; no docstring; an argument without a type hint or a description; *args,
            **kwargs or an argument that cannot be given by name; a type hint or a list of choices that
            cannot be turned into JSON Schema; a name that no model could call.
    """
    from transformers.utils import get_json_schema
    from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException

    name = getattr(function, "__name__", repr(function))
    _check_arguments(function, name)
    try:
        made = get_json_schema(function)
    except DocstringParsingException as error:
        raise _no_description(function, name, error) from error
    except (TypeHintParsingException, NameError, TypeError) as error:
        raise LessonError(
            "{name}: a type hint cannot be turned into JSON Schema ({error}). Use str, int, float, bool, "
            "list[...], dict[...], Literal[...] or type | None.",
            name=name, error=error,
        ) from error
    except json.JSONDecodeError as error:
        raise LessonError(
            "{name}: a list (choices: ...) in the docstring is no JSON ({error}). Use double quotes: "
            '(choices: ["a", "b"]).',
            name=name, error=error,
        ) from error
    return _checked(_with_null(made), name)


def schemas(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The JSON Schemas of several tools, each of them checked.

    Args:
        tools: Python functions, or schemas; a schema may be the inner dict alone, and where the tool takes no
            arguments it may lack "parameters".

    Returns:
        New dicts in one form, in the same order; what was given is not changed.

    Raises:
        LessonError: as `schema`; something that is neither function nor schema; no name, or one that is no
            plain identifier; two tools of one name; parameters that are no valid JSON Schema (draft 2020-12)
            of an object, require what they do not list, or refer to another document.
    """
    if isinstance(tools, Mapping) or callable(tools) or not isinstance(tools, Sequence):
        raise LessonError("Give the tools as a list: schemas([get_weather, ...]).")
    made = []
    for number, tool in enumerate(tools):
        if isinstance(tool, Mapping):
            made.append(_checked(tool, f"tools[{number}]"))
        elif callable(tool):
            made.append(schema(tool))
        else:
            raise LessonError(
                "tools[{number}] is of type {name}, neither a Python function nor a JSON Schema (dict). A "
                "JSON text has to go through json.loads first.",
                number=number, name=type(tool).__name__,
            )
    names = [tool["function"]["name"] for tool in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LessonError(
            "Two tools are called {twice!r}: a call could not tell which. Rename one of them.", twice=twice,
        )
    return made


def signature(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool in its shortest form, for prompts that have little room: no descriptions, types as words.

    Args:
        schema: one of the dicts that `schemas` returns.

    Returns:
        {"name", "parameters"}, each parameter with the name of its type; "?" follows the name of an optional
        one, the allowed values stand joined by "|", a list of strings is "string[]":
        {"name": "get_weather", "parameters": {"city": "string", "unit?": "celsius|fahrenheit"}}.
    """
    parameters = schema["function"]["parameters"]
    required = parameters.get("required", ())
    return {
        "name": schema["function"]["name"],
        "parameters": {
            name if name in required else f"{name}?": _type(wanted)
            for name, wanted in parameters.get("properties", {}).items()
        },
    }


def _type(wanted: Any) -> str:
    """The type of one parameter in a word; "any" where the schema leaves it open."""
    if not isinstance(wanted, Mapping):
        return "any"
    values = wanted.get("enum", [wanted["const"]] if "const" in wanted else None)
    if values:
        return "|".join(value if isinstance(value, str) else json.dumps(value) for value in values)
    ways = wanted.get("anyOf") or wanted.get("oneOf")
    if ways:
        return "|".join(dict.fromkeys(map(_type, ways)))
    kinds = wanted.get("type", "any")
    words = [kinds] if isinstance(kinds, str) else kinds
    return "|".join(f"{_type(wanted['items'])}[]" if word == "array" and "items" in wanted else word
                    for word in words)


def _check_arguments(function: Callable, name: str) -> None:
    """Refuses what `get_json_schema` would describe, but no JSON object of arguments can fill."""
    try:
        if not inspect.isroutine(function):  # a class, functools.partial(...)
            raise TypeError
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise LessonError(
            "{name}: its arguments cannot be read; this is no function written in Python. Write one around "
            "it, with type hints and a docstring.",
            name=name,
        ) from None
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise LessonError(
                "{name}: argument {parameter!r} cannot be given by name, but a model's call is a JSON "
                "object of names and values. Write each argument out, without *args, **kwargs or /.",
                name=name, parameter=str(parameter),
            )
        receiver = parameter.name in ("self", "cls")
        if parameter.annotation is parameter.empty and not receiver:
            raise LessonError(
                "{name}: argument {argument!r} has no type hint. Write, for example, {argument}: str.",
                name=name, argument=parameter.name,
            )


def _no_description(function: Callable, name: str, error: Exception) -> LessonError:
    if not inspect.getdoc(function):
        return LessonError(
            "{name}: the function has no docstring. A model picks a tool by its description: write what it "
            "does and, under 'Args:', a line for each argument.",
            name=name,
        )
    return LessonError(
        "{name}: the docstring does not describe every argument ({error}). Under 'Args:' write a line for "
        "each, such as 'city: the city to look up'.",
        name=name, error=error,
    )


def _with_null(part: Any) -> Any:
    """The same schema with "null" among the types where transformers writes "nullable"."""
    if isinstance(part, list):
        return [_with_null(item) for item in part]
    if not isinstance(part, dict):
        return part
    nullable = part.get("nullable") is True
    made = {key: _with_null(value) for key, value in part.items() if not (nullable and key == "nullable")}
    if nullable and "anyOf" in made:
        made["anyOf"] = [*made["anyOf"], {"type": "null"}]
    elif nullable and "type" in made:
        kinds = made["type"] if isinstance(made["type"], list) else [made["type"]]
        made["type"] = list(dict.fromkeys([*kinds, "null"]))
        if "enum" in made:
            made["enum"] = list(dict.fromkeys([*made["enum"], None]))
    return made


def _checked(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of one tool's schema in the full form, or a LessonError that says what is wrong with it."""
    function = tool.get("function", tool if "name" in tool else None)
    if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
        raise LessonError(
            '{where}: this does not describe a function. It has to look like {{"type": "function", '
            '"function": {{"name", "description", "parameters"}}}}.',
            where=where,
        )
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise LessonError(
            "{where}: {name!r} cannot be the name of a tool. A name has ASCII letters, digits and _ (. and "
            "- will do), begins with a letter or _, and has at most 64 characters.",
            where=where, name=name,
        )
    if not isinstance(function.get("description", ""), str):
        raise LessonError(
            "{name}: 'description' has to be text (its value is {description!r}).",
            name=name, description=function["description"],
        )
    rest = {key: value for key, value in function.items() if key != "type"}
    described = {"name": name, "description": "", "parameters": {"type": "object", "properties": {}}, **rest}
    try:
        copied: dict[str, Any] = json.loads(json.dumps(described, allow_nan=False))
        _check_parameters(json.dumps(copied["parameters"]), name)
    except (TypeError, ValueError, RecursionError) as error:
        raise LessonError(
            "{name}: this description cannot be written as JSON, or is nested too deeply ({error}).",
            name=name, error=error,
        ) from error
    return {"type": "function", "function": copied}


@lru_cache(maxsize=256)  # data names the same few tools in every row
def _check_parameters(written: str, name: str) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    parameters = json.loads(written)
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise LessonError(
            "{name}: 'parameters' has to be the JSON Schema of an object: {{\"type\": \"object\", "
            '"properties": {{...}}, "required": [...]}}.',
            name=name,
        )
    try:
        Draft202012Validator.check_schema(parameters)
        elsewhere = _reference_elsewhere(parameters)
    except SchemaError as error:
        path = "/".join(map(str, error.absolute_path))
        raise LessonError(
            "{name}: 'parameters' is no valid JSON Schema, at '{path}': {why}.",
            name=name, path=path, why=error.message[:200],
        ) from error
    if elsewhere is not None:  # jsonschema would fetch it from the network
        raise LessonError(
            "{name}: a '$ref' points to another document ({elsewhere!r}). Copy that part into '$defs'.",
            name=name, elsewhere=elsewhere,
        )
    listed = parameters.get("properties", {})
    unlisted = [item for item in parameters.get("required", []) if item not in listed]
    if unlisted:
        raise LessonError(
            "{name}: 'required' names {unlisted!r}, which is not among 'properties', so no call could be "
            "right. Add it there, or take it out.",
            name=name, unlisted=unlisted[0],
        )


def _reference_elsewhere(part: Any) -> str | None:
    """The first reference that leaves the schema it stands in, if any."""
    if isinstance(part, dict):
        for word in ("$ref", "$dynamicRef"):
            if isinstance(part.get(word), str) and not part[word].startswith("#"):
                return str(part[word])
        part = list(part.values())
    if isinstance(part, list):
        return next(filter(None, map(_reference_elsewhere, part)), None)
    return None
