"""tools.schemas: held to transformers' own helper and to jsonschema; every refusal says what to mend."""

import functools
from typing import Literal

import pytest
from jsonschema import Draft202012Validator
from transformers.utils import get_json_schema

from lessonlib import tools
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError


def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius", days: int = 1) -> dict:
    """Looks up the weather of a city.

    Args:
        city: the city to look up
        unit: the unit of the answer
        days: how many days ahead

    Returns:
        the forecast
    """
    return {}


def find(words: list[str], mode: str, within: dict[str, float], at: int | str, new: bool | None = None):
    """Searches.

    Args:
        words: what to look for
        mode: how (choices: ["any", "all"])
        within: limits by name
        at: where to begin
        new: new ones only, if said
    """


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Looks up the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "the city to look up"},
                "unit": {
                    "type": "string", "enum": ["celsius", "fahrenheit"], "description": "the unit of the "
                    "answer"
                },
                "days": {"type": "integer", "description": "how many days ahead"},
            },
            "required": ["city"],
        },
        "return": {"type": "object", "description": "the forecast"},
    },
}


def tool(name="look", parameters=None, **more):
    if parameters is None:
        parameters = {"type": "object", "properties": {"q": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters,
    **more}}


def test_a_function_becomes_the_schema_that_transformers_makes():
    assert tools.schema(get_weather) == WEATHER == get_json_schema(get_weather)


def test_an_argument_that_may_be_none_takes_null_in_a_validator():
    def plan(day: str | None, kind: Literal["a", "b"] | None = None, of: list[int | None] | None = None):
        """Plans.

        Args:
            day: the day
            kind: the kind
            of: the items
        """

    made = tools.schema(plan)["function"]["parameters"]
    accepts = Draft202012Validator(made).is_valid
    assert accepts({"day": None, "kind": None, "of": None})
    assert accepts({"day": "x", "kind": "a", "of": [1, None]})
    for wrong in ({"day": 1}, {"day": "x", "kind": "c"}, {"day": "x", "of": ["x"]}, {}):
        assert not accepts(wrong)
    assert not Draft202012Validator(get_json_schema(plan)["function"]["parameters"]).is_valid({"day": None})


def test_a_union_that_may_be_none_takes_null_too():
    def pick(what: list[int] | dict[str, str | bool] | Literal["x"] | None):
        """Picks.

        Args:
            what: anything
        """

    accepts = Draft202012Validator(tools.schema(pick)["function"]["parameters"]).is_valid
    assert accepts({"what": None}) and accepts({"what": [1]}) and not accepts({"what": 1.5})


def test_a_method_is_called_without_its_receiver():
    class Shop:
        def order(self, number: int):
            """Looks up an order.

            Args:
                number: its number
            """

    assert list(tools.schema(Shop().order)["function"]["parameters"]["properties"]) == ["number"]


def test_signature_names_types_choices_and_what_may_be_left_out():
    assert tools.signature(WEATHER) == {
        "name": "get_weather",
        "parameters": {"city": "string", "unit?": "celsius|fahrenheit", "days?": "integer"},
    }
    assert tools.signature(tools.schema(find))["parameters"] == {
        "words": "string[]", "mode": "any|all", "within": "object", "at": "integer|string",
        "new?": "boolean|null",
    }


def test_signature_of_open_and_odd_schemas():
    odd = {
        "open": {}, "level": {"enum": [1, None, "x"]}, "one": {"const": 3}, "list": {"type": "array"},
        "yes": True,
        "either": {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "integer"}}]},
    }
    made = tools.signature(tools.schemas([tool(parameters={"type": "object", "properties": odd})])[0])
    assert made["parameters"] == {
        "open?": "any", "level?": "1|null|x", "one?": "3", "list?": "array", "yes?": "any",
        "either?": "number|integer[]",
    }
    assert tools.signature(tools.schemas([{"name": "now"}])[0]) == {"name": "now", "parameters": {}}


def test_schemas_takes_functions_and_dicts_and_changes_neither():
    given = tool()
    inner = {"name": "now", "description": "The time."}
    made = tools.schemas([get_weather, given, inner])
    assert made[:2] == [WEATHER, tool()]
    assert made[2] == tool("now", {"type": "object", "properties": {}}, description="The time.")
    made[1]["function"]["parameters"]["properties"].clear()
    assert given == tool() and inner == {"name": "now", "description": "The time."}
    assert tools.schemas([]) == []


def undescribed(city: str):
    """Looks up.

    Args:
        town: the city
    """


def undocumented(city: str): ...


def untyped(city):
    """Looks up.

    Args:
        city: the city
    """


def many(*cities: str):
    """Looks up.

    Args:
        cities: the cities
    """


def options(city: str, **rest: str):
    """Looks up.

    Args:
        city: the city
        rest: more
    """


def by_place(city: str, /):
    """Looks up.

    Args:
        city: the city
    """


def odd_type(pair: tuple[int]):
    """Looks up.

    Args:
        pair: a pair
    """


def no_such_type(city: "Town"):  # noqa: F821
    """Looks up.

    Args:
        city: the city
    """


def choices(unit: str):
    """Looks up.

    Args:
        unit: the unit (choices: ['a', 'b'])
    """


def thành_phố(city: str):
    """Looks up.

    Args:
        city: the city
    """


@pytest.mark.parametrize("function, says", [
    (undocumented, "undocumented: the function has no docstring. A model picks a tool by its description"),
    (undescribed, "undescribed: the docstring does not describe every argument .*'city'"),
    (untyped, "untyped: argument 'city' has no type hint. Write, for example, city: str"),
    (many, r"many: argument '\*cities: str' cannot be given by name"),
    (options, r"options: argument '\*\*rest: str' cannot be given by name"),
    (by_place, "by_place: argument 'city: str' cannot be given by name"),
    (odd_type, "odd_type: a type hint cannot be turned into JSON Schema .*Tuple"),
    (no_such_type, "no_such_type: a type hint cannot be turned .*Town"),
    (choices, "choices: a list .*docstring is no JSON .*Use double quotes"),
    (dict.update, "update: its arguments cannot be read"),
    (print, r"print: argument '\*args' cannot be given by name"),
    (dict, "dict: its arguments cannot be read; this is no function written in Python"),
    (functools.partial(get_weather, "Huế"), "partial.*: its arguments cannot be read"),
    (thành_phố, "'thành_phố' cannot be the name of a tool"),
])  # fmt: skip
def test_a_function_that_no_call_could_fill_is_refused(function, says):
    with pytest.raises(LessonError, match=says):
        tools.schemas([function])


CIRCLE: dict = {"type": "object"}
CIRCLE["properties"] = {"a": CIRCLE}
DEEP: dict = {"type": "object"}
for _ in range(5000):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


@pytest.mark.parametrize("given, says", [
    (WEATHER, "Give the tools as a list"),
    (get_weather, "Give the tools as a list"),
    (3, "Give the tools as a list"),
    (['{"name": "x"}'], r"tools\[0\] is of type str, neither .* json.loads"),
    ([{"type": "retrieval"}], r"tools\[0\]: this does not describe a function"),
    ([tool(), {"function": "look"}], r"tools\[1\]: this does not describe a function"),
    ([tool(name="get weather")], "'get weather' cannot be the name of a tool"),
    ([tool(name="ｌook")], "'ｌook' cannot be the name"),
    ([tool(name="look\n")], "cannot be the name"),
    ([tool(name="a" * 65)], "has at most 64 characters"),
    ([{"function": {"description": "x"}}], "None cannot be the name"),
    ([tool(description=3)], "look: 'description' has to be text .*3"),
    ([tool(parameters={"type": "string"})], "look: 'parameters' has to be the JSON Schema of an object"),
    ([tool(parameters=[])], "look: 'parameters' has to be the JSON Schema of an object"),
    ([tool(parameters={"type": "object", "properties": {"q": {"type": "text"}}})],
     "look: 'parameters' is no valid JSON Schema, at 'properties/q/type': 'text' is not valid"),
    ([tool(parameters={"type": "object", "properties": {"q": {"$ref": "http://example.org/q.json"}}})],
     "look: a '.ref' points to another document .*example.org"),
    ([tool(parameters={"type": "object", "allOf": [{"$ref": "file:///etc/passwd"}]})],
    "points to another document"),
    ([tool(parameters={"type": "object", "properties": {}, "required": ["q"]})],
     "look: 'required' names 'q', which is not among 'properties'"),
    ([tool(parameters={"type": "object", "properties": {"q": {"default": float("nan")}}})],
     "look: this description cannot be written as JSON"),
    ([tool(parameters={"type": "object", "properties": {"q": {"enum": {1, 2}}}})],
    "cannot be written as JSON"),
    ([tool(parameters=CIRCLE)], "cannot be written as JSON"),
    ([tool(parameters=DEEP)], "nested too deeply"),
    ([tool(), tool()], "Two tools are called 'look'"),
])  # fmt: skip
def test_a_schema_that_no_call_could_fill_is_refused(given, says):
    with pytest.raises(LessonError, match=says):
        tools.schemas(given)


def test_a_reference_within_the_schema_is_taken():
    named = {"q": {"type": "string"}}
    inside = {"type": "object", "properties": {"q": {"$ref": "#/$defs/q"}}, "$defs": named}
    assert tools.schemas([tool(parameters=inside)]) == [tool(parameters=inside)]


def test_refusals_speak_vietnamese():
    language.use("vi")
    with pytest.raises(LessonError, match="undocumented: hàm chưa có docstring"):
        tools.schema(undocumented)
