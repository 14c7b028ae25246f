"""A call against its schema: every kind of problem, and schemas that would be dangerous to check with."""

import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.tools import _strict as strict
from lessonlib.tools._lookalikes import closest, shown
from lessonlib.tools._validation import Problem, check, measured


def tool(name, properties, required=(), **more):
    parameters = {"type": "object", "properties": properties, "required": list(required), **more}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


STOP = {"type": "object", "properties": {"name": {"type": "string"}, "minutes": {"type": "integer"}},
        "required": ["name"]}
TOOLS = [
    tool("get_weather", {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]},
                         "days": {"type": "integer", "minimum": 1}}, ["city"]),
    tool("convert", {"amount": {"type": "number"}, "to": {"type": "string"}}, ["amount", "to"]),
    tool("plan", {"stops": {"type": "array", "items": STOP}, "date": {"type": "string", "format": "date"},
                  "urgent": {"type": "boolean"}, "note": {"type": ["string", "null"]},
                  "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                  "anything": {"type": "object"}}),
    tool("now", {}),
]


def found(name, **arguments):
    return [(problem.kind, problem.path) for problem in check({"name": name, "arguments": arguments}, TOOLS)]


@pytest.mark.parametrize(("name", "arguments"), [
    ("get_weather", {"city": "Huế"}),
    ("get_weather", {"city": "", "unit": "celsius", "days": 3}),
    ("get_weather", {"city": "Huế", "days": 3.0}),  # JSON Schema: a number without a fraction is an integer
    ("convert", {"amount": 5, "to": "VND"}),
    ("convert", {"amount": -0.5, "to": "VND"}),
    ("plan", {}),
    ("plan", {"stops": [{"name": "A", "minutes": 5}, {"name": "B"}], "date": "2026-11-21", "urgent": False}),
    ("plan", {"note": None, "tags": {"a": "b"}, "anything": {"x": [1]}}),
    ("now", {}),
])  # fmt: skip
def test_a_right_call_has_no_problem(name, arguments):
    assert found(name, **arguments) == []


@pytest.mark.parametrize(("name", "arguments", "expected"), [
    ("get_weather", {}, [("missing", "city")]),
    ("convert", {}, [("missing", "amount"), ("missing", "to")]),
    ("get_weather", {"city": "Huế", "town": "Huế"}, [("unexpected", "town")]),
    ("get_weather", {"City": "Huế"}, [("missing", "city"), ("unexpected", "City")]),
    ("now", {"zone": "UTC"}, [("unexpected", "zone")]),
    ("get_weather", {"city": 5}, [("type", "city")]),
    ("get_weather", {"city": None}, [("type", "city")]),
    ("get_weather", {"city": ["Huế"]}, [("type", "city")]),
    ("get_weather", {"city": "Huế", "days": "3"}, [("type", "days")]),
    ("get_weather", {"city": "Huế", "days": True}, [("type", "days")]),
    ("get_weather", {"city": "Huế", "days": 2.5}, [("type", "days")]),
    ("convert", {"amount": "5", "to": "VND"}, [("type", "amount")]),
    ("convert", {"amount": True, "to": "VND"}, [("type", "amount")]),
    ("plan", {"urgent": 0}, [("type", "urgent")]),
    ("plan", {"tags": {"a": 1}}, [("type", "tags.a")]),
    ("get_weather", {"city": "Huế", "unit": "kelvin"}, [("value", "unit")]),
    ("get_weather", {"city": "Huế", "unit": "Celsius"}, [("value", "unit")]),
    ("get_weather", {"city": "Huế", "days": 0}, [("value", "days")]),
    ("plan", {"date": "21/11/2026"}, [("value", "date")]),
    ("plan", {"date": "2026-02-30"}, [("value", "date")]),
    ("plan", {"stops": [{"name": "A"}, {"minutes": 1, "name": 2}]}, [("type", "stops[1].name")]),
    ("plan", {"stops": [{"name": "A", "colour": 1}]}, [("unexpected", "stops[0].colour")]),
    ("plan", {"stops": [{}]}, [("missing", "stops[0].name")]),
])  # fmt: skip
def test_a_wrong_call_has_exactly_these_problems(name, arguments, expected):
    assert sorted(found(name, **arguments)) == sorted(expected)


@pytest.mark.parametrize("call", [
    None, "get_weather", [], {}, {"name": 5, "arguments": {}}, {"name": "now"},
    {"name": "now", "arguments": []}, {"name": "now", "arguments": "{}"}, {"name": None, "arguments": {}},
])  # fmt: skip
def test_what_is_no_call_is_a_problem_and_no_exception(call):
    assert [problem.kind for problem in check(call, TOOLS)] == ["malformed"]


def test_messages_say_what_would_be_right():
    said = {
        problem.path: str(problem)
        for problem in check(
            {"name": "get_weather", "arguments": {"cities": "Huế", "unit": "kelvin", "days": "3"}}, TOOLS
        )
    }
    assert said == {
        "city": "get_weather needs city, which is missing. Give it, or ask the user for it.",
        "cities": 'get_weather has no argument "cities". Did you mean city? Its arguments: city, unit, days.',
        "unit": 'unit must be one of "celsius", "fahrenheit"; there is no "kelvin".',
        "days": 'days must be integer, but "3" is string.',
    }
    language.use("vi")
    assert str(check({"name": "get_weather", "arguments": {}}, TOOLS)[0]).startswith("get_weather cần city")


def test_other_rules_are_named_with_their_limit():
    problem = check({"name": "get_weather", "arguments": {"city": "Huế", "days": 0}}, TOOLS)[0]
    assert str(problem) == "days is 0, against the schema's rule: minimum 1."


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", [
    "gеt_weather",  # Cyrillic е
    "ｇｅｔ＿ｗｅａｔｈｅｒ",  # full width
    "𝗀𝖾𝗍_weather",  # mathematical letters
    "get_wea\u200bther",  # a space without width
    "get_weathér", "Get-Weather", "getWeather", "get_wether", "get_weather ",
])  # fmt: skip
def test_a_name_that_only_looks_right_is_unknown_and_the_right_one_is_named(name):
    problem, = check({"name": name, "arguments": {"city": "Huế"}}, TOOLS)
    assert problem.kind == "unknown_tool" and "Did you mean get_weather?" in problem.message


def test_a_name_like_no_other_gets_no_suggestion():
    problem, = check({"name": "os.system", "arguments": {}}, TOOLS)
    assert problem.message == 'There is no tool "os.system". The tools: get_weather, convert, plan, now.'
    assert closest("", ["get_weather"]) is None


def test_what_cannot_be_seen_is_written_out_and_long_values_are_cut():
    assert shown("a\u202eb\n") == '"a\\u202eb\\n"'
    assert len(shown("x" * 10**6)) < 80 and len(shown(list(range(1000)))) < 80


def test_an_argument_that_looks_like_another_is_unexpected():
    problems = check({"name": "get_weather", "arguments": {"сity": "Huế"}}, TOOLS)  # Cyrillic с
    assert sorted(problem.kind for problem in problems) == ["missing", "unexpected"]
    assert any("Did you mean city?" in problem.message for problem in problems)


# ---------------------------------------------------------------- size


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def test_depth_is_counted_with_the_arguments_themselves():
    assert measured({"a": nested(7)}) is None
    assert measured({"a": nested(8)}).kind == "too_deep"
    assert found("plan", anything={"a": nested(10_000)}) == [("too_deep", "anything")]


def test_size_is_that_of_the_json_text():
    whole = {"city": "x" * (4000 - len('{"city": ""}'))}
    assert measured(whole) is None and measured({"city": whole["city"] + "x"}).kind == "too_large"
    assert measured({"city": "\x01" * 1000}).kind == "too_large"  # 6 characters each in JSON
    assert measured(list(range(10**6))).kind == "too_large"
    assert measured({"n": 10**5000}).kind == "too_large"


def test_a_value_that_holds_itself_ends_the_count():
    wide = []
    wide.extend([wide] * 50)
    assert measured(wide).kind in ("too_deep", "too_large")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_refused(number):
    assert found("convert", amount=number, to="VND") == [("not_finite", "amount")]


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a"}, b"x", "\ud800", {"\ud800": 1}, object()])
def test_what_is_no_json_is_refused(value):
    assert measured({"a": value}) == Problem("type", "a", measured({"a": value}).message)


def test_many_problems_are_cut_to_twenty():
    many = {f"a{number}": 1 for number in range(300)}
    assert len(check({"name": "now", "arguments": many}, TOOLS)) == 20


# ---------------------------------------------------------------- schemas


def one(schema, value, **more):
    return [problem.kind for problem in check({"name": "f", "arguments": {"x": value}},
                                              [tool("f", {"x": schema}, **more)])]


def test_objects_are_closed_unless_they_say_otherwise():
    point = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert one(point, {"a": 1, "b": 2}) == ["unexpected"]
    assert one({**point, "additionalProperties": True}, {"a": 1, "b": 2}) == []
    assert one({"type": "string"}, "a", additionalProperties=True) == []
    open_tool = tool("f", {}, additionalProperties={"type": "integer"})
    assert check({"name": "f", "arguments": {"free": 1}}, [open_tool]) == []


def test_names_in_branches_count_as_named():
    either = {"anyOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                        {"type": "null"}]}  # fmt: skip
    assert one(either, {"a": 1}) == [] and one(either, None) == []
    assert one(either, {"a": 1, "b": 1}) == ["unexpected"]
    both = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
    assert one(both, {"a": 1, "b": 2}) == [] and one(both, {"c": 1}) == ["unexpected"]


def test_one_of_several_types_is_a_problem_of_type():
    union = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}
    problem, = check({"name": "f", "arguments": {"x": "a"}}, [tool("f", {"x": union})])
    assert (problem.kind, problem.message) == ("type", 'x must be integer | array, but "a" is string.')
    assert one(union, [1]) == ["value"]


def test_nullable_allows_null():
    assert one({"type": "integer", "nullable": True}, None) == []
    assert one({"type": "string", "enum": ["a"], "nullable": True}, None) == []
    assert one({"anyOf": [{"type": "integer"}], "nullable": True}, None) == []
    assert one({"type": "integer"}, None) == ["type"]


def test_own_definitions_may_be_referred_to():
    more = {"$defs": {"Point": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
    reference = {"$ref": "#/$defs/Point"}
    assert one(reference, {"a": 1}, **more) == []
    assert one(reference, {"a": "1"}, **more) == ["type"]
    assert one(reference, {"b": 1}, **more) == ["unexpected"]


@pytest.mark.parametrize("schema", [
    {"$ref": "https://example.com/schema.json"}, {"$ref": "file:///etc/passwd"}, {"$ref": "#/$defs/Nothing"},
    {"$ref": "#"}, {"$dynamicRef": "#x"}, {"type": "object", "patternProperties": {"^(a+)+$": {}}},
    {"anyOf": [{"type": "array", "items": {"$ref": "http://example.com"}}]},
])  # fmt: skip
def test_references_to_other_documents_are_refused(schema):
    with pytest.raises(LessonError, match="which lessonlib does not follow"):
        one(schema, "a")


def test_a_reference_without_end_is_refused():
    more = {"$defs": {"A": {"$ref": "#/$defs/A"}}}
    with pytest.raises(LessonError, match="has a \\$ref back to itself"):
        one({"$ref": "#/$defs/A"}, 1, **more)


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(LessonError, match="The schema of f is no valid JSON Schema, at properties.x.type"):
        one({"type": "text"}, "a")


def test_words_that_are_no_keywords_at_their_place_are_left_alone():
    plain = {"type": "string", "default": {"$ref": "http://x"}}
    words = tool("f", {"pattern": plain, "$ref": {"enum": ["(a+)+"]}})
    assert check({"name": "f", "arguments": {"pattern": "(a+)+$", "$ref": "(a+)+"}}, [words]) == []


@pytest.mark.parametrize("pattern", [
    "^(a+)+$", "^(a|a)*$", "^(a|b)$", "a+", "^a+", "a+$", "^.*.*.*.*$", r"^(.)\1$", "^a++$", "^a{2}{3}$",
    "^[z-a]$", r"^a\$", "^[[]$", "^" + "a" * 300 + "$", "^(?=a)a$", "^a{99999}$", r"^\p{L}$",
])  # fmt: skip
def test_patterns_that_might_not_end_are_refused(pattern):
    assert not strict._is_harmless(pattern)


def test_a_refused_pattern_is_named():
    with pytest.raises(LessonError, match=r"has the pattern '\^\(a\+\)\+\$', which could take for ever"):
        one({"type": "string", "pattern": "^(a+)+$"}, "a")


@pytest.mark.parametrize(("pattern", "right", "wrong"), [
    ("^[A-Z]{2}-[0-9]{4,8}$", "DH-12345", "DH-123456789"),
    (r"^\d{4}$", "2026", "２０２６"),  # ASCII digits alone
    (r"^[a-z0-9_]+\.txt$", "note_1.txt", "../../etc/passwd"),
    (r"^[a-z]+\.txt$", "note.txt", "note.txt\n"),  # Python's own $ would let the line break pass
    (r"^[^/\\]+$", "Huế", "a/b"),
    ("^.*.*.*x$", "x", "a" * 200),  # the slowest that is allowed, on the longest text
    ("^a*$", "a" * 200, "a" * 201),
    ("^$", "", "a"),
])  # fmt: skip
def test_a_harmless_pattern_has_to_match_all_of_the_text(pattern, right, wrong):
    schema = {"type": "string", "pattern": pattern}
    assert one(schema, right) == [] and one(schema, wrong) == ["value"]


def test_types_agree_with_jsonschema_itself():
    """All JSON types against all type names; only `measured` and `closed` are ours."""
    from jsonschema import Draft202012Validator

    values = [None, True, False, 0, 1, 5.0, 5.5, "5", "", [], [1], {}, {"a": 1}]
    for name in ("null", "boolean", "integer", "number", "string", "array", "object"):
        for value in values:
            expected = [] if Draft202012Validator({"type": name}).is_valid(value) else ["type"]
            assert one({"type": name}, value) == expected, (name, value)
