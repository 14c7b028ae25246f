"""Cases of the Berkeley Function-Calling Leaderboard in the form that `tools.score_turn` takes.

Its files (package bfcl-eval, Apache-2.0) describe functions with names of types of their own, and give for
each argument all the answers that are right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lessonlib.tools._verdicts import OneOf

TYPES = {"dict": "object", "float": "number", "tuple": "array"}  # all others are JSON Schema's, or "any"


def from_bfcl(
    functions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One case: its tools and the calls that are wanted.

    Args:
        functions: the case's "function", with types such as "dict", "float", "tuple" or "any".
        answers: its "ground_truth": for each call {name: {argument: [possible values]}}, where "" among the
            values says that the argument may be left out. Keys of a dict have such lists too, one level down.

    Returns:
        The schemas, as transformers and OpenAI write them, and the calls, each argument a `OneOf`.
    """
    schemas = [
        {"type": "function", "function": {**function, "parameters": _json_schema(function["parameters"])}}
        for function in functions
    ]
    known = {function["name"]: function["parameters"]["properties"] for function in functions}
    calls = [
        {
            "name": name,
            "arguments": {
                key: _one_of(values, known.get(name, {}).get(key, {}).get("type"))
                for key, values in arguments.items()
            },
        }
        for answer in answers
        for name, arguments in answer.items()
    ]
    return schemas, calls


def _json_schema(schema: Any) -> Any:
    """A schema with JSON Schema's names of types, at any depth."""
    if not isinstance(schema, Mapping):
        return schema
    made = {key: value for key, value in schema.items() if (key, value) != ("type", "any")}
    if isinstance(made.get("type"), str):
        made["type"] = TYPES.get(made["type"], made["type"])
    if isinstance(made.get("properties"), Mapping):
        made["properties"] = {key: _json_schema(inner) for key, inner in made["properties"].items()}
    if "items" in made:
        made["items"] = _json_schema(made["items"])
    return made


def _one_of(values: Sequence[Any], kind: str | None) -> OneOf:
    """The possible values of an argument; dicts among them, and in lists among them, hold such lists too."""

    def inside(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: _choice(its, None) for key, its in value.items()}
        return [inside(item) for item in value] if isinstance(value, list) else value

    choice = _choice(values, kind)
    return OneOf(tuple(map(inside, choice.values)), choice.optional)


def _choice(values: Sequence[Any], kind: str | None) -> OneOf:
    """The mark "" says "may be left out"; it is a value of its own too where a text could stand."""
    others = tuple(value for value in values if value != "")
    a_text = kind in ("string", "any") or not others or any(isinstance(value, str) for value in others)
    return OneOf(tuple(values) if a_text else others, optional="" in values)
