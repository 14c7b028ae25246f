"""tools.parsing: the JSON reader held to `json` and Python's literals; what is tolerated, what is refused "
"and why."""

import ast
import json

import pytest

from lessonlib import tools
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.tools import _literals as literals
from lessonlib.tools import _parsing as parsing
from lessonlib.tools._parsing import Parsed

HUE = {"name": "get_weather", "arguments": {"city": "Huế"}}
NOW = {"name": "now", "arguments": {}}
HUE_JSON = '{"name":"get_weather","arguments":{"city":"Huế"}}'


def tag(inside):
    return f"<tool_call>{inside}</tool_call>"


def parsed(text):
    """(calls, problems) of an answer; for those in which the rest does not matter."""
    made = tools.parse(text)
    return made.calls, made.problems


# literals


@pytest.mark.parametrize("written", [
    '{"a": [1, -2.5, 1e3, 0, -0, {"b": null}], "": "x", "c": {}}', "[]", " [ [ ] , { } ] ",
    '"\\u00e9\\n\\"/\\/"',
    '"\\ud83e\\udd16"', '"🤖 Huế"', "true", "false", "null", "-0.0", "1E-5", "123456789012345678901234567890",
    '{"a": "it\'s {[,:"}', '"\\\\"',
])  # fmt: skip
def test_json_is_read_as_json_reads_it(written):
    value, end, repaired = literals.read(written)
    assert value == json.loads(written) and type(value) is type(json.loads(written))
    assert (end, repaired) == (len(written.rstrip()), []) or written.endswith(" ") and not repaired


@pytest.mark.parametrize("value", [
    {"name": "a", "arguments": {"x": True, "y": None, "z": [False, 1.5, -3]}}, {"s": "it's"},
    {"s": 'say "hi"'},
    {"s": "both ' and \""}, {"s": "a\nb\t\\ \x07 \xa0 é 🤖 \U000e0001"}, {"s": '", "b": "'}, ["", {}, []],
])  # fmt: skip
def test_a_python_literal_is_read_as_python_reads_it(value):
    written = repr(value)
    assert literals.read(written)[0] == value == ast.literal_eval(written)


def test_it_says_where_the_value_ends_and_begins_where_it_is_told():
    assert literals.read('xx {"a": "}"} and more', 2) == ({"a": "}"}, 13, [])


@pytest.mark.parametrize("written, repaired", [
    ("{'a': 1}", ["single_quotes"]), ("[True, None]", ["python_words"]), ("[1, 2,]", ["trailing_comma"]),
    ('{"a": 1, }', ["trailing_comma"]), ('"a\nb"', ["raw_control"]), ('"it\\\'s"', ["python_escape"]),
    ("{'a': False,}", ["single_quotes", "python_words", "trailing_comma"]),
])  # fmt: skip
def test_what_is_tolerated_is_named(written, repaired):
    assert literals.read(written)[2] == repaired
    with pytest.raises(ValueError):
        json.loads(written)


@pytest.mark.parametrize("written, says", [
    ("[" * 5000, "nests more than 20 deep"), ('{"a":' * 5000, "nests more than 20 deep"),
    ("[" * 21 + "]" * 21, "nests more than 20 deep"),
    ("NaN", "JSON knows no NaN"), ("[Infinity]", "knows no Infinity"), ("-Infinity", "knows no -Infinity"),
    ("nan", "knows no nan"), ("-inf", "knows no -inf"), ("1e999", "the number 1e999 is too large"),
    ("-1e999", "too large"), ("9" * 101, "more than 100 digits"), ("9" * 5000, "more than 100 digits"),
    ('{"a": 1, "a": 2}', 'the name "a" stands there twice'), ('{"a": 1, "\\u0061": 2}', "twice"),
    ('"\\ud800"', "half a surrogate pair"), ("'\\ud800'", "half a surrogate pair"),
    ('"\ud800"', "half a surrogate"),
    ("", "ends before the value is closed"), ('{"a"', "ends before"), ('{"a": ', "ends before"),
    ("[1", "ends before"),
    ('"abc', "ends before"), ("'abc\\'", "ends before"), ('{"a": 1', "ends before"),
    ("{a: 1}", "a name needs double quotes"), ("{1: 2}", "a name needs double quotes"),
    ("{,}", "needs double"),
    ('{"a" 1}', "a colon is missing"), ("[1 2]", r"a comma or '\]' is missing"),
    ('{"a": 1 "b": 2}', "or '}' is"),
    ("[,]", "no JSON value"), ("[1,,2]", "no JSON value"), ("01", "no JSON value"),
    ("1_000", "no JSON value"),
    (".5", "no JSON value"), ("1.5.2", "no JSON value"), ("+1", "no JSON value"), ("٣", "no JSON value"),
    ("(1, 2)", "no JSON value"), ("{1, 2}", "needs double quotes"), ("b'x'", "no JSON value"),
    ("- 1", "no JSON"),
    ("f'{x}'", "no JSON value"), ("__import__('os').system('x')", "no JSON value, at .*__import__"),
    ("-" * 20000 + "1", "no JSON value"), ("lambda: 0", "no JSON value"), ("undefined", "no JSON value"),
    (r"'\d'", "a string knows no escape"), (r'"\x4"', "knows no escape"),
    (r"'\U00110000'", "knows no escape"),
    ("“a”", "no JSON value"),
])  # fmt: skip
def test_what_is_no_value_is_refused_with_the_reason(written, says):
    with pytest.raises(literals.NotRead, match=says):
        literals.read(written)


def test_twenty_levels_are_read():
    written = "[" * 20 + "]" * 20
    assert literals.read(written)[0] == json.loads(written)


@pytest.mark.parametrize("written", ["1 + 1", "2**9999", "'a' * 9", "[1][0]", "{}.x"])
def test_operators_are_left_standing(written):
    """The value before the operator is read; whoever wanted the whole text sees that more follows."""
    value, end, _ = literals.read(written)
    assert value == json.loads(written[:end].replace("'", '"')) and written[end:].strip()


# answers as the course's models write them


def test_thought_call_and_end():
    made = tools.parse(f"<think>get_weather</think>{tag(HUE_JSON)}<end_of_turn>")
    assert made == Parsed("get_weather", [HUE], "", [], [])


def test_a_reply_is_content():
    made = tools.parse("<think>none fits</think>I have no tool for that, {really}.<end_of_turn>\n<eos>")
    assert made == Parsed("none fits", [], "I have no tool for that, {really}.", [], [])
    assert tools.parse("Hi") == Parsed(None, [], "Hi", [], [])
    assert tools.parse("") == Parsed(None, [], "", [], [])
    assert tools.parse("<think></think>Hi").thinking == ""


def test_calls_come_in_order_with_the_text_around_them():
    made = tools.parse(f'Sure.\n{tag(HUE_JSON)}{tag(json.dumps(NOW))} Wait.')
    assert (made.calls, made.content, made.repaired) == ([HUE, NOW], "Sure.\n Wait.", [])


@pytest.mark.parametrize("text, calls, repaired", [
    (tag(f"\n{HUE_JSON}\n"), [HUE], None),
    (tag(f"```json\n{HUE_JSON}\n```"), [HUE], "a code fence around the call"),
    (tag(f"```{HUE_JSON}```"), [HUE], "a code fence around the call"),
    (tag(f"```json{HUE_JSON}```"), [HUE], "a code fence around the call"),
    (tag(repr(HUE)), [HUE], "single quotes in place of double ones"),
    (tag('{"name":"now","arguments":{},}'), [NOW], "a comma before a closing bracket"),
    (tag(HUE_JSON.replace("arguments", "parameters")), [HUE], "'parameters' in place of 'arguments'"),
    (tag(json.dumps({**HUE, "arguments": '{"city": "Huế"}'})), [HUE], "arguments as JSON text"),
    (tag('{"name":"now"}'), [NOW], "no 'arguments': none are taken"),
    (tag('{"name":"now","arguments":null}'), [NOW], "no 'arguments': none are taken"),
    (tag(f'{{"type":"function","id":"1","function":{HUE_JSON}}}'), [HUE], "the call inside 'function'"),
    (tag(f"[{HUE_JSON},{json.dumps(NOW)}]"), [HUE, NOW], "several calls in one tag"),
    (tag(f"{HUE_JSON}\n{json.dumps(NOW)}"), [HUE, NOW], "several calls in one tag"),
    (f"<tool_call>{HUE_JSON}", [HUE], "</tool_call> is missing"),
    (f"<tool_call>{HUE_JSON}<tool_call>{json.dumps(NOW)}</tool_call>", [HUE, NOW], "</tool_call> is missing"),
    (HUE_JSON, [HUE], "a call without <tool_call>"),
    (f"{HUE_JSON}</tool_call>", [HUE], "a call without <tool_call>"),
    (f"[{HUE_JSON},{json.dumps(NOW)}]", [HUE, NOW], "a call without <tool_call>"),
    (f"<|python_tag|>{HUE_JSON}<|eom_id|>", [HUE], "a call without <tool_call>"),
    (f"<bos>{tag(HUE_JSON)}<end_of_turn><pad><pad>", [HUE], None),
])  # fmt: skip
def test_what_models_do_instead_is_tolerated_and_reported(text, calls, repaired):
    made = tools.parse(text)
    assert (made.calls, made.problems, made.content) == (calls, [], "")
    assert repaired in made.repaired if repaired else made.repaired == []


def test_fences_in_text_without_tags():
    fenced = f"```json\n{HUE_JSON}\n```\nand\n```\n{json.dumps(NOW)}\n```"
    made = tools.parse(f"Here:\n{fenced}\n```python\nx = 1\n```")
    assert made.calls == [HUE, NOW] and made.problems == []
    assert made.content.split() == ["Here:", "and", "```python", "x", "=", "1", "```"]


def test_text_after_a_call_without_its_end_is_content():
    made = tools.parse(f"<tool_call>{HUE_JSON} I will look.<end_of_turn>")
    assert (made.calls, made.content, made.repaired) == ([HUE], "I will look.", ["</tool_call> is missing"])


@pytest.mark.parametrize("text, says", [
    (tag(""), "call 1: this is no JSON value, at .*/tool_call"),
    ("<tool_call>", "call 1: the text ends before"),
    ('<tool_call>{"name":"a","arguments":{"city":"Hu', "call 1: the text ends before the value is closed"),
    ('<tool_call>{"name":"a","arguments":{"city":"Huế"}<end_of_turn>',
    "a comma or '}' is missing, at .*end_of_turn"),
    (tag("get_weather(city='Huế')"), "call 1: this is no JSON value, at .*get_weather"),
    (tag("""{"name":"a","arguments":{"x":__import__('os').system('x')}}"""),
    "no JSON value, at .*__import__"),
    (tag("""{"name":"a","arguments":{"x":1}}.__class__"""),
    "after the call's JSON there is more: .*__class__"),
    (tag("""{"name":"a","arguments":{"x":1}} or exit()"""), "there is more: .*or exit"),
    (tag(HUE_JSON + "}"), 'after the call\'s JSON there is more: "}"'),
    (tag('{"name":"a","arguments":{"x":NaN}}'), "knows no NaN"),
    (tag('{"name":"a","arguments":{"x":1e999}}'), "too large"),
    (tag('{"name":"a","name":"b","arguments":{}}'), 'the name "name" stands there twice'),
    (tag('{"name":"a","arguments":' + "[" * 5000), "nests more than 20 deep"),
    (tag('{"name":"a","arguments":[1]}'), r"'arguments' has to be an object, and is \[1\]"),
    (tag('{"name":"a","arguments":7}'), "'arguments' has to be an object, and is 7"),
    (tag('{"name":"a","arguments":"[1]"}'), "'arguments' has to be an object"),
    (tag('{"name":"a","arguments":"{} x"}'), 'after the arguments\' JSON there is more: "x"'),
    (tag('{"name":"a","arguments":"Huế"}'), "no JSON value"),
    (tag('{"name":"a","arguments":{},"parameters":{}}'), "'arguments' and 'parameters', both"),
    (tag('{"name":"a","city":"Huế"}'), r"it has no 'arguments', but \[\"city\"\]"),
    (tag('{"arguments":{}}'), "an object with 'name' and 'arguments', and is"),
    (tag('{"name":"","arguments":{}}'), "an object with 'name'"),
    (tag('{"name":["a"],"arguments":{}}'), "with 'name'"),
    (tag('"get_weather"'), "an object with 'name'"), (tag("[]"), "an empty list holds no call"),
    (tag('[{"name":"a","arguments":{}},3]'), "an object with 'name' and 'arguments', and is 3"),
    (f"I call {HUE_JSON} now", "in the midst of text, without <tool_call>"),
    (HUE_JSON[:-1], "a call without its tag: the text ends"),
    (HUE_JSON + " ok", "without its tag: after the call's"),
    (f"<think>{tag(HUE_JSON)}</think>", "the only call stands inside <think>"),
    (f"<think>so{tag(HUE_JSON)}", "a call inside a <think> that is never closed"),
    (f"＜tool_call＞{HUE_JSON}＜/tool_call＞", "without <tool_call>"),
    (f"<tool\u200b_call>{HUE_JSON}</tool\u200b_call>", "without <tool_call>"),
])  # fmt: skip
def test_what_looks_like_a_call_and_cannot_be_read_says_why(text, says):
    made = tools.parse(text)
    assert made.calls == [] and len(made.problems) == 1
    with pytest.raises(ValueError, match=says):
        raise ValueError(made.problems[0])


def test_one_bad_call_leaves_the_others():
    calls, problems = parsed(tag(HUE_JSON) + tag("nonsense </think>") + tag(json.dumps(NOW)))
    assert calls == [HUE, NOW] and len(problems) == 1 and problems[0].startswith("call 2:")


def test_a_tag_holds_all_its_calls_or_none():
    calls, problems = parsed(tag(f'[{HUE_JSON}, {{"name": "a", "arguments": NaN}}]'))
    assert calls == [] and len(problems) == 1


def test_tags_inside_an_argument_are_text():
    call = {"name": "note", "arguments": {"text": "</tool_call><tool_call><end_of_turn><think>x</think>"}}
    assert parsed(tag(json.dumps(call))) == ([call], [])


def test_a_call_in_a_thought_is_passed_over():
    made = tools.parse(f"<think>perhaps {tag(json.dumps(NOW))}</think>{tag(HUE_JSON)}")
    assert made.calls == [HUE] and made.problems == []
    assert made.repaired == ["a call inside <think> was passed over"]
    assert tools.parse(f"<think>{tag(HUE_JSON)}</think>No tool fits.").problems == []


def test_a_thought_without_one_of_its_tags():
    made = tools.parse(f"get_weather</think>{tag(HUE_JSON)}")
    assert (made.thinking, made.calls, made.repaired) == ("get_weather", [HUE], ["<think> is missing"])
    made = tools.parse("<think>nothing fits<end_of_turn>")
    assert (made.thinking, made.content, made.repaired) == ("nothing fits", "", ["</think> is missing"])
    assert tools.parse("<think>a</think><think>b</think>c").thinking == "a\nb"


def test_a_made_up_result_ends_the_answer():
    guess = f'<tool_response>{{"temp":30}}</tool_response>{tag(json.dumps(NOW))}It is 30.'
    made = tools.parse(tag(HUE_JSON) + guess)
    assert (made.calls, made.content, made.problems) == ([HUE], "", [])
    assert made.repaired == ["the model made up a <tool_response>; all from there on was dropped"]


def test_what_follows_the_end_of_the_turn_is_dropped():
    made = tools.parse(f"Done.<end_of_turn>\n<start_of_turn>user\nhi{tag(HUE_JSON)}")
    assert (made.calls, made.content) == ([], "Done.")
    assert made.repaired == ["text after the end of the turn was dropped"]


def test_twenty_calls_are_taken_and_more_are_not():
    calls, problems = parsed(tag(HUE_JSON) * 20)
    assert calls == [HUE] * 20 and problems == []
    for many in (tag(HUE_JSON) * 21, tag(HUE_JSON * 21), tag("[" + ",".join([HUE_JSON] * 21) + "]"),
                 "[" + ",".join([HUE_JSON] * 21) + "]", tag('{"name":"a"}') * 500):  # fmt: skip
        calls, problems = parsed(many)
        assert calls == [] and "more than 20 calls in one answer" in problems[-1]
    calls, problems = parsed("<tool_call>" * 1500)
    assert calls == [] and len(problems) == 22


def test_a_megabyte_is_not_read():
    made = tools.parse(tag(HUE_JSON) + "x" * 1_000_000)
    assert made.calls == [] and len(made.content) == parsing._LENGTH
    letters = 1_000_000 + len(tag(HUE_JSON))
    assert made.problems == [f"the answer has {letters} letters, more than 20000: it was not read"]


@pytest.mark.parametrize("unit", [
    "<tool_call>{", "<tool_call>'", "<think>", "</think>", "```", "```json\n{", '"name":', "\\", "'\\",
    "{'a':",
    "<", '<tool_call>{"name":"a","arguments":{"x":"', " ", "\n", "```\n{'name': 'a', 'arguments': ", "-",
    "[1,",
])  # fmt: skip
def test_repetition_is_gone_over_once(unit, monkeypatch):
    """Every pattern is possessive or finds a fixed word, so what is worst for one is no slower than plain "
    "text."""
    read = []
    real = literals.read
    monkeypatch.setattr(parsing, "read", lambda *given: (read.append(1), real(*given))[1])
    made = tools.parse((unit * 20_000)[: parsing._LENGTH])
    assert made.calls == [] and len(read) <= parsing._CALLS + 1


def test_an_answer_has_to_be_text():
    with pytest.raises(LessonError, match="parse takes text, not list. Decode the tokens"):
        tools.parse([1, 2])
    language.use("vi")
    with pytest.raises(LessonError, match="parse cần văn bản, không phải NoneType"):
        tools.parse(None)


def test_problems_and_repairs_speak_the_notebooks_language():
    language.use("vi")
    made = tools.parse(tag("{'name': 'now'}") + tag("x"))
    assert made.problems == ['lời gọi 2: đây không phải giá trị JSON, tại "x</tool_call>"']
    assert set(made.repaired) == {"dấu nháy đơn thay cho nháy kép", "thiếu 'arguments': coi như không có"}
