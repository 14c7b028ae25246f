"""The JSON values that stand for calls: the plain one, and the forms in which other interfaces write it."""

from collections.abc import Mapping
from typing import Any

from lessonlib.tools._literals import NotRead, read
from lessonlib.tools._lookalikes import shown


def calls(value: Any, repaired: list[str]) -> list[dict[str, Any]]:
    """The calls that a value read from a text stands for.

    {"name", "arguments"} is the course's form. "parameters" is Llama's word, a wrapping "function" and
    arguments as JSON text are OpenAI's, a list holds several.

    Args:
        value: as `_literals.read` gives it.
        repaired: gets a word for each form that is not the course's own.

    Returns:
        One or more {"name": str, "arguments": dict}.

    Raises:
        NotRead: for any other value, with the reason.
    """
    if not isinstance(value, list):
        return [_call(value, repaired)]
    if not value:
        raise NotRead("an empty list holds no call")
    repaired.append("list")
    return [_call(item, repaired) for item in value]


def _call(value: Any, repaired: list[str]) -> dict[str, Any]:
    if isinstance(value, dict) and "name" not in value and isinstance(value.get("function"), dict):
        value = value["function"]
        repaired.append("wrapped")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise NotRead(
            "it has to be an object with 'name' and 'arguments', and is {value}", value=shown(value),
        )
    return {"name": value["name"], "arguments": _arguments(value, repaired)}


def _arguments(call: Mapping[str, Any], repaired: list[str]) -> dict[str, Any]:
    given = [key for key in ("arguments", "parameters") if key in call]
    if len(given) == 2:
        raise NotRead("it has 'arguments' and 'parameters', both")
    others = [key for key in call if key not in ("name", "type", "id", *given)]
    if not given and others:
        raise NotRead("it has no 'arguments', but {others}", others=shown(others))
    arguments = call[given[0]] if given else None
    if arguments is None:
        repaired.append("no_arguments")
        return {}
    if given == ["parameters"]:
        repaired.append("parameters")
    if isinstance(arguments, str):
        inner = arguments
        arguments, end, tolerated = read(inner)
        repaired += ["arguments_text", *tolerated]
        if inner[end:].strip():
            raise NotRead(
                "after the arguments' JSON there is more: {inner}", inner=shown(inner[end:].strip()[:30]),
            )
    if not isinstance(arguments, dict):
        raise NotRead("'arguments' has to be an object, and is {arguments}", arguments=shown(arguments))
    return arguments
