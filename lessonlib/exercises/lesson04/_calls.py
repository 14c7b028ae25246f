"""Lesson 04's exercises 2 and 5: a call written as Python turned into JSON, and a guard before a tool
runs."""

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.runtime._language import Translated

# What is given, the right answer, and what to say where the learner's differs: (given, want, why).
Case = tuple[tuple[Any, ...], Any, Translated]


def judge_cases(answer: Callable[..., Any], cases: Sequence[Case], kind: type) -> None:
    """Ask the learner's function case by case; the first that differs is explained by its own words.

    An error that only an odd case brings out is explained too; one in the first case is shown as it is, with
    the learner's own line.
    """
    wanted = {bool: Translated("True or False"), int: Translated("a number")}[kind]
    for number, (given, want, why) in enumerate(cases):
        try:
            got = answer(*deepcopy(given))
        except (KeyError, TypeError, AttributeError) as error:
            if number == 0:
                raise
            what = f"{type(error).__name__}: {error}"
            raise Wrong(
                "With {given} your function stopped with {what}\n{why}",
                given=_shown(given), what=what, why=why,
            ) from error
        if type(got) is not kind:
            raise Wrong(
                "Return {wanted}, you returned {returned}.", wanted=wanted, returned=type(got).__name__,
            )
        if got != want:
            raise Wrong(
                "With {given} it should be {want}, you gave {got}. {why}",
                given=_shown(given), want=want, got=got, why=why,
            )


def _shown(given: Sequence[Any]) -> str:
    """What the function was given, but for schemas, which are long and printed in the lesson."""
    return ", ".join(repr(one) for one in given if one is not _SCHEMAS)


# 2. Python's literals to JSON -----------------------------------------------------------------------------


def solve_literal(said: str) -> str | None:
    """The call as JSON text, or None where it is no literal call or has no JSON form."""
    try:
        call = ast.literal_eval(said)  # reads literals and nothing else: no names, no calls, no operators
        if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
            return None
        return json.dumps(call, ensure_ascii=False, allow_nan=False)  # Infinity and NaN are no JSON
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


_LITERALS = (
    "{'name': 'get_weather', 'arguments': {'city': 'Huế', 'days': None, 'hourly': True}}",
    "{'name': 'find_book', 'arguments': {'title': \"It's None of 'em\", 'new': False, 'pages': [1, -2.5]}}",
)

# (a text to refuse, why)
_REFUSED = (
    (
        "{'name': 'f', 'arguments': {'x': 1}",
        Translated("This one is cut off in the middle."),
    ),
    (
        "get_weather(city='Huế')",
        Translated("This is Python code and no dict of literals."),
    ),
    (
        "['f', {'x': 1}]",
        Translated("This is no dict of name and arguments."),
    ),
    ("{'name': 'f'}", Translated("Without arguments it is no call.")),
    (
        "{'name': 'f', 'arguments': {'x': {1, 2}}}",
        Translated("JSON has no sets: json.dumps raises TypeError."),
    ),
    (
        "{'name': 'f', 'arguments': {'x': 1e999}}",
        Translated("1e999 is infinite, and JSON has no Infinity: pass allow_nan=False."),
    ),
)
# A method of a literal: it needs no builtins, so that eval with empty globals runs it too.
_CODE = "{'name': 'f', 'arguments': {'x': 'ab'.upper()}}"


def _judge_literal(literal: Callable[[str], Any]) -> None:
    for said in _LITERALS:
        _judge_converted(said, literal(said))
    if _refusal(literal, _CODE, Translated("This is code and no value.")) is not None:
        raise Wrong(
            "Your function ran the code in {code}: it was only .upper() now, but may delete files next "
            "time. eval and exec are never safe, not even without builtins. Use ast.literal_eval.",
            code=_CODE,
        )
    for said, why in _REFUSED:
        if (got := _refusal(literal, said, why)) is not None:
            raise Wrong("{said} should be None, you gave {got!r}. {why}", said=said, got=got, why=why)


def _refusal(literal: Callable[[str], Any], said: str, why: Translated) -> Any:
    """What the learner's function makes of a text that has to be refused; an error is no refusal."""
    try:
        return literal(said)
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError, NameError) as error:
        kind = type(error).__name__
        raise Wrong(
            "With {said} your function stopped with {kind}; one bad row would stop the whole data set. Catch "
            "it and return None. {why}",
            said=said, kind=kind, why=why,
        ) from error


def _judge_converted(said: str, got: Any) -> None:
    want = ast.literal_eval(said)
    if got is None:
        raise Wrong(
            "{said} is a good call, and you gave None. json.loads does not read single quotes; "
            "ast.literal_eval does.",
            said=said,
        )
    if not isinstance(got, str):
        raise Wrong(
            "Return JSON text, you returned {name}. The last step is json.dumps.", name=type(got).__name__,
        )
    try:
        found = json.loads(got)
    except ValueError as error:
        raise Wrong(
            "{got} is no JSON ({error}). Replacing quotes or None breaks the words inside strings too. Read "
            "it into Python's values first, then json.dumps.",
            got=got, error=error,
        ) from error
    if found != want:
        raise Wrong(
            "{said} became {found}: a value has changed. replace reaches into strings too.",
            said=said, found=found,
        )
    if "\\u" in got:
        raise Wrong(
            "{got} is JSON, but the model would learn to write \\u1ebf for ế. Pass ensure_ascii=False.",
            got=got,
        )


literal = Exercise(
    title=Translated("Exercise 2. Turn a call written as Python into JSON without running any code in it."),
    judge=_judge_literal,
    hints=(
        Translated(
            "`ast.literal_eval(said)` reads only literals: strings, numbers, lists, dicts, True, None. For "
            "anything else it raises ValueError or SyntaxError.",
        ),
        Translated(
            "`json.dumps(call, ensure_ascii=False, allow_nan=False)`, inside try: TypeError is a type that "
            "JSON lacks. Before it, check for the two keys `name` and `arguments`.",
        ),
    ),
    solve=solve_literal,
    praise=Translated(
        "Data from the net is a stranger's word: to be read and never to be run. `tools.parse` only reads, "
        "too, with limits on length and depth besides.",
    ),
    start=unwritten,
)


# 5. The guard ---------------------------------------------------------------------------------------------


def _tool(name: str, properties: dict[str, Any], required: list[str] | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required is not None:
        parameters["required"] = required
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


_SCHEMAS = [
    _tool("get_weather", {"city": {"type": "string"}, "unit": {"type": "string"}}, ["city"]),
    _tool("set_timer", {"minutes": {"type": "integer"}, "label": {"type": "string"}}, ["minutes"]),
    _tool("now", {}, None),  # JSON Schema lets "required" be left out
]


def solve_allowed(call: Mapping[str, Any], schemas: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a call names an offered tool, with all of its required arguments and none that it lacks."""
    tools = {schema["function"]["name"]: schema["function"]["parameters"] for schema in schemas}
    name, arguments = call.get("name"), call.get("arguments")
    if name not in tools or not isinstance(arguments, dict):
        return False
    required = tools[name].get("required", [])
    known = tools[name]["properties"]
    return all(one in arguments for one in required) and all(one in known for one in arguments)


def _guarded(name: str | None, arguments: Any, want: bool, why: Translated) -> Case:
    call = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return (call, _SCHEMAS), want, why


_CALLS = (
    _guarded(
        "get_weather", {"city": "Huế", "unit": "celsius"}, True,
        Translated("Known, complete, nothing too much: this call has to pass."),
    ),
    _guarded(
        "get_weather", {"city": "Huế"}, True,
        Translated("unit is not in required, so it may be left out."),
    ),
    _guarded(
        "set_timer", {"minutes": 0}, True,
        Translated("0 is a value too. Ask `name in arguments`, not whether the value is true."),
    ),
    _guarded(
        "now", {}, True,
        Translated('A schema without required requires nothing: `.get("required", [])`.'),
    ),
    _guarded(
        "delete_files", {}, False,
        Translated("No tool of that name was offered."),
    ),
    _guarded(
        "weather", {"city": "Huế"}, False,
        Translated("Part of a name is no name. Compare by ==, or look it up in a dict or set of names."),
    ),
    _guarded("get_weather", {}, False, Translated("city is required and missing.")),
    _guarded(
        "get_weather", {"unit": "celsius"}, False,
        Translated("city is what is required; another argument does not stand for it."),
    ),
    _guarded(
        "get_weather", {"city": "Huế", "country": "VN"}, False,
        Translated(
            "country is not among the properties: the function would raise TypeError or, worse, take it.",
        ),
    ),
    _guarded(
        "set_timer", {"minutes": 5, "city": "Huế"}, False,
        Translated("city is another tool's argument. Look at the called tool's schema only."),
    ),
    _guarded("now", {"zone": "UTC"}, False, Translated("This tool takes none.")),
    _guarded(
        "now", None, False,
        Translated("arguments have to be a dict. Refuse anything else, and do not crash."),
    ),
    _guarded(
        "get_weather", ["city"], False,
        Translated("arguments have to be a dict: with a list, `in` asks for elements and not for keys."),
    ),
    _guarded(
        None, {"city": "Huế"}, False,
        Translated('A call without a name is refused: `call.get("name")`.'),
    ),
)  # fmt: skip


def _judge_allowed(allowed: Callable[..., Any]) -> None:
    judge_cases(allowed, _CALLS, bool)


allowed = Exercise(
    title=Translated("Exercise 5. The guard: which calls may run, and which are refused?"),
    judge=_judge_allowed,
    hints=(
        Translated(
            'Build a dict (name: parameters) from `schema["function"]` and look the name up. Not there: '
            "False.",
        ),
        Translated(
            "Two conditions: all names in `required` are in the arguments; all names in the arguments are "
            "in `properties`.",
        ),
    ),
    solve=solve_allowed,
    praise=Translated(
        "Nothing runs that was not registered. lessonlib.tools.check adds types and values by way of "
        "jsonschema and says what is wrong, so that the model can mend it.",
    ),
    start=unwritten,
)
