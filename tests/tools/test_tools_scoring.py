"""tools.scoring: the leaderboard's own verdicts on its published cases, and where ours differ on purpose;
rates, differences and the exact test against numbers computed by hand."""

import json
import math
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from bfcl import from_bfcl

from lessonlib.evaluation import _scoring as intervals
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.tools import _scoring as scoring
from lessonlib.tools import _verdicts as verdicts
from lessonlib.tools._parsing import Parsed, parse
from lessonlib.tools._verdicts import OneOf, said

BFCL = json.loads((Path(__file__).parent / "bfcl_cases.json").read_text(encoding="utf-8"))
# The leaderboard's kinds of error; where parallel calls find no partner it names none.
KINDS = {
    "wrong_count": "call_count", "wrong_func_name": "name", "missing_required": "missing",
    "unexpected_param": "unexpected", "missing_optional": "omitted",
}  # fmt: skip

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "limit": {"type": "number", "nullable": True},
        "where": {"type": "object", "properties": {"lat": {"type": "number"}, "tags": {
            "type": "array", "items": {"type": "string"}}}},
        "when": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "free": {},
    },
}}}  # fmt: skip
ALARM = {"name": "set_alarm", "parameters": {"properties": {"time": {"type": ["string", "integer"]}}}}
TOOLS = [WEATHER, ALARM]


def weather(**arguments):
    return {"name": "get_weather", "arguments": arguments}


def alarm(time):
    return {"name": "set_alarm", "arguments": {"time": time}}


def said_by(*calls, content="", problems=()):
    return Parsed(thinking=None, calls=list(calls), content=content, problems=list(problems), repaired=[])


def judged(expected, got, **options):
    return verdicts.score_turn([expected], said_by(got), TOOLS, **options)


# ---------------------------------------------------------------- the leaderboard's verdicts


def ids(case):
    return f"{case['source']}-{case['change']}"


@pytest.mark.parametrize("case", BFCL["cases"], ids=ids)
def test_a_published_case_is_judged_as_by_the_leaderboards_own_checker(case):
    source = BFCL["functions"][case["source"]]
    schemas, expected = from_bfcl(source["function"], source["ground_truth"])
    verdict = verdicts.score_turn(expected, said_by(*case["calls"]), schemas, strings="bfcl")
    if "differs" in case:
        assert verdict.ok != case["valid"]
        return
    assert verdict.ok == case["valid"]
    place, kind = (case["error_type"] or "none:none").split(":")
    if kind == "cannot_find_match":
        assert verdict.error in verdicts.ERRORS[4:]
    elif case["calls"] and case["change"] != "list_item_type":  # a type that BFCL calls a value: see verdicts
        theirs = {"type_error": "type", "value_error": "value", "none": None}.get(place, KINDS.get(kind))
        assert verdict.error == theirs
        assert bool(verdict.detail) == (not verdict.ok)


def test_the_published_cases_hold_every_kind_of_error_and_every_difference():
    kinds = {(case["error_type"] or "").split(":")[-1] for case in BFCL["cases"]}
    assert set(KINDS) <= kinds and {"", "simple", "nested", "string", "list/tuple", "dict_key"} <= kinds
    assert {case.get("differs") for case in BFCL["cases"]} == {
        None, "number", "empty list", "pairing", "text where a list is declared"
    }  # fmt: skip
    assert sum(case["valid"] for case in BFCL["cases"]) > 20


def test_without_the_option_only_spelling_makes_a_difference():
    differ = set()
    for case in BFCL["cases"]:
        source = BFCL["functions"][case["source"]]
        schemas, expected = from_bfcl(source["function"], source["ground_truth"])
        got = said_by(*case["calls"])
        loose = verdicts.score_turn(expected, got, schemas, strings="bfcl")
        if loose.ok != verdicts.score_turn(expected, got, schemas).ok:
            assert loose.ok
            differ.add(case["change"])
    assert differ == {"case", "key_case", "punct", "sign", "list_case"}


# ---------------------------------------------------------------- one call


@pytest.mark.parametrize(
    ("wanted", "got", "error"),
    [
        (weather(city="Huế"), weather(city="Huế"), None),
        (weather(city="Huế"), weather(city=unicodedata.normalize("NFD", "Huế")), None),
        (weather(city="Huế"), weather(city="huế"), "value"),
        (weather(city="Huế"), weather(city="Hue"), "value"),
        (weather(city="1.5"), weather(city="15"), "value"),
        (weather(city="Huế"), alarm("7h"), "name"),
        (weather(city="Huế"), weather(days=1), "missing"),
        (weather(city="Huế"), weather(city="Huế", country="VN"), "unexpected"),
        (weather(city="Huế"), weather(city="Huế", days=1), "unexpected"),
        (weather(city="Huế", days=3), weather(city="Huế"), "omitted"),
        (weather(city="Huế", days=3), weather(city="Huế", days=3.0), None),
        (weather(city="Huế", days=3), weather(city="Huế", days=4), "value"),
        (weather(city="Huế", days=3), weather(city="Huế", days="3"), "type"),
        (weather(city="Huế", days=3), weather(city="Huế", days=3.5), "type"),
        (weather(city="Huế", days=3), weather(city="Huế", days=math.inf), "type"),
        (weather(city="Huế", days=1), weather(city="Huế", days=True), "type"),
        (weather(city="Huế", days=1), weather(city="Huế", days=None), "type"),
        (weather(city="Huế", unit="celsius"), weather(city="Huế", unit="kelvin"), "value"),
        (weather(city="Huế", limit=1.5), weather(city="Huế", limit=None), "value"),
        (weather(city="Huế", limit=None), weather(city="Huế", limit=None), None),
        (weather(city="Huế", when=None), weather(city="Huế", when=2), "value"),
        (weather(city="Huế", when=None), weather(city="Huế", when="2"), "type"),
        (weather(city="Huế", free=[1]), weather(city="Huế", free="x"), "value"),
        (weather(city="Huế", where={"lat": 1}), weather(city="Huế", where={"lat": 1.0}), None),
        (weather(city="Huế", where={"lat": 1}), weather(city="Huế", where={"lat": 2}), "value"),
        (weather(city="Huế", where={"lat": 1}), weather(city="Huế", where={"lat": "1"}), "type"),
        (weather(city="Huế", where={"lat": 1}), weather(city="Huế", where={}), "value"),
        (weather(city="Huế", where={"lat": 1}), weather(city="Huế", where={"lat": 1, "x": 1}), "value"),
        (weather(city="Huế", where={"tags": [1, 2]}), weather(city="Huế", where={"tags": [1, 2]}), None),
        (weather(city="Huế", where={"tags": [*"ab"]}), weather(city="Huế", where={"tags": [*"ba"]}), "value"),
        (weather(city="Huế", where={"tags": ["a"]}), weather(city="Huế", where={"tags": [1]}), "type"),
        (weather(city="Huế", where={"tags": ["a"]}), weather(city="Huế", where={"tags": "a"}), "type"),
        (weather(city="Huế", where={"tags": ["a"]}), weather(city="Huế", where=["a"]), "type"),
        (alarm("7"), alarm(7), "value"),
        (alarm("7"), alarm([7]), "type"),
    ],
)
def test_a_call_is_right_or_says_what_is_wrong(wanted, got, error):
    verdict = judged(wanted, got)
    assert (verdict.ok, verdict.error) == (error is None, error)
    assert bool(verdict.detail) == (error is not None)


def test_the_earlier_check_decides_and_the_arguments_come_in_the_models_order():
    wanted = weather(city="Huế", days=3, unit="celsius")
    assert judged(wanted, weather(days="3", country="VN")).error == "missing"
    assert judged(wanted, weather(city="Huế", days="3", country="VN")).error == "type"
    assert judged(wanted, weather(city="Huế", country="VN", days="3")).error == "unexpected"
    assert judged(wanted, weather(city="Vinh", days=3)).error == "value"


def test_a_detail_names_the_argument_what_was_wanted_and_what_came_in_both_languages():
    wanted = weather(city="Huế", days=3)
    assert judged(wanted, weather(city="Huế", days="3")).detail == 'days: 3 (integer) wanted, "3" given'
    assert judged(wanted, weather(city="Huế")).detail == "days: 3 wanted, left out"
    assert judged(wanted, alarm("7h")).detail == 'get_weather wanted, "set_alarm" called'
    language.use("vi")
    assert judged(wanted, weather(city="Vinh")).detail == 'city: cần "Huế", nhận được "Vinh"'
    assert judged(wanted, weather(days=3)).detail == "city: thiếu đối số bắt buộc"


def test_one_of_takes_each_of_its_values_at_any_depth_and_may_be_left_out():
    wanted = weather(
        city=OneOf(("Huế", "Hue")), days=OneOf((3,), optional=True), where={"lat": OneOf((1,), optional=True)}
    )
    assert judged(wanted, weather(city="Hue", where={})).ok
    assert judged(wanted, weather(city="Huế", days=3, where={"lat": 1})).ok
    assert judged(wanted, weather(city="Huế", days=4, where={})).error == "value"
    assert judged(wanted, weather(city="Huế", where={"lat": 2})).error == "value"
    wrong = judged(wanted, weather(city="Vinh", where={}))
    assert wrong.detail == 'city: "Huế" | "Hue" wanted, "Vinh" given'


def test_bfcl_spelling_drops_case_blanks_and_some_punctuation_at_any_depth():
    wanted = weather(city="Đà Nẵng, VN", where={"tags": ["Cà-phê"]})
    got = weather(city="đà nẵng vn", where={"tags": ["cà phê"]})
    assert not judged(wanted, got).ok
    assert judged(wanted, got, strings="bfcl").ok
    assert judged(weather(city="a!"), weather(city="a"), strings="bfcl").error == "value"


def test_whatever_a_model_wrote_can_be_shown():
    deep = []
    for _ in range(5_000):
        deep = [deep]
    for value in (10**5000, deep, "x" * 5000, {"a": {1: "\n\x00"}}):
        detail = judged(weather(city="Huế"), weather(city=value)).detail
        assert len(detail) < 150 and detail.isprintable()
    assert said({"a": OneOf((1, 2))}) == '{"a": 1}' and said(OneOf(("", 2), optional=True)) == "2"
    assert said(OneOf(("", "x"))) == '"" | "x"'


# ---------------------------------------------------------------- a turn


def turn(expected, *calls, **more):
    return verdicts.score_turn(expected, said_by(*calls, **more), TOOLS)


def test_a_turn_without_wanted_calls_is_right_when_none_is_made():
    assert turn([], content="Không có công cụ nào.").ok
    called = turn([], weather(city="Huế"))
    assert called.error == "called_without_need" and "get_weather" in called.detail
    assert turn([], problems=["cut off"]).error == "unreadable"


def test_a_turn_says_whether_nothing_came_too_many_came_or_it_cannot_be_read():
    wanted = [weather(city="Huế")]
    assert turn(wanted, content="I don't know").error == "no_call"
    assert turn(wanted, *wanted, *wanted).error == "call_count"
    broken = turn(wanted, *wanted, problems=["a brace is missing", "cut off"])
    assert (broken.error, broken.detail) == ("unreadable", "a brace is missing; cut off")
    many = turn(wanted, *[weather(city="Huế")] * 500)
    assert "1 calls wanted, 500 given" in many.detail and len(many.detail) < 120


def test_what_the_parser_reads_can_be_judged():
    text = '<think>x</think><tool_call>{"name":"get_weather","arguments":{"city":"Huế"}}</tool_call>'
    assert verdicts.score_turn([weather(city="Huế")], parse(text), TOOLS).ok
    assert verdicts.score_turn([weather(city="Huế")], parse(text[:-20]), TOOLS).error == "unreadable"
    assert verdicts.score_turn([], parse("Xin lỗi, không có công cụ nào."), TOOLS).ok


def test_parallel_calls_may_come_in_any_order_but_each_fits_only_once():
    wanted = [weather(city="Huế"), weather(city="Vinh"), alarm("7h")]
    assert turn(wanted, *reversed(wanted)).ok
    assert turn(wanted, wanted[0], wanted[0], wanted[2]).error == "value"


def test_parallel_calls_are_paired_even_where_the_first_fit_is_the_wrong_one():
    wanted = [weather(city=OneOf(("Huế", "Vinh"))), weather(city="Huế")]
    assert turn(wanted, weather(city="Huế"), weather(city="Vinh")).ok
    assert turn(wanted, weather(city="Vinh"), weather(city="Huế")).ok
    assert turn(wanted, weather(city="Vinh"), weather(city="Vinh")).error == "value"


def test_the_error_of_parallel_calls_is_that_of_the_nearest():
    wanted = [weather(city="Huế", days=1), weather(city="Vinh")]
    assert turn(wanted, weather(city="Vinh"), weather(city="Huế")).error == "omitted"
    assert turn(wanted, weather(city="Vinh"), alarm("7h")).error == "name"


def test_a_wanted_call_of_a_tool_that_is_not_offered_is_a_mistake_in_the_data():
    with pytest.raises(LessonError, match="'get_weather', but the tools offered are: set_alarm"):
        verdicts.score_turn([weather(city="Huế")], said_by(), [ALARM])
    with pytest.raises(LessonError, match="the tools offered are: -. Score each row with its own schemas"):
        verdicts.score_turn([weather(city="Huế")], said_by(weather(city="Huế")), [])
    language.use("vi")
    with pytest.raises(LessonError, match="Đáp án gọi 'get_weather', nhưng chỉ có các công cụ: set_alarm"):
        verdicts.score_turn([weather(city="Huế")], said_by(), [ALARM])


def test_an_unknown_way_to_compare_strings_is_refused():
    with pytest.raises(LessonError, match="strings='loose': choose 'exact'.* or 'bfcl'"):
        verdicts.score_turn([], said_by(), [], strings="loose")


# ---------------------------------------------------------------- tables


def asked(name, kind, calls, *, after=None, language="vi"):
    history = [{"role": "user", "content": f"Yêu cầu {name}"}]
    history += [{"role": "tool", "name": after, "content": "{}"}] if after else []
    return {
        "row": 0, "id": name, "kind": kind, "language": language, "tools": TOOLS, "history": history,
        "expected": {}, "calls": calls,
    }  # fmt: skip


TURNS = [
    asked("a", "call", [weather(city="Huế")]),
    asked("b", "call", [weather(city="Vinh")], language="en"),
    asked("c", "parallel", [weather(city="Huế"), alarm("7h")]),
    asked("d", "no_tool", []),
    asked("e", "no_tool", []),
    asked("a", "call", [], after="get_weather"),
]
RIGHT = [said_by(*each["calls"]) for each in TURNS]
BASE = [
    said_by(content="?"), said_by(weather(city="Huế")), said_by(problems=["cut off"]), said_by(alarm("7h")),
    said_by(), said_by(alarm("7h")),
]  # fmt: skip


@pytest.fixture(scope="module")
def both():
    language.use("en")
    return {"base": scoring.report(TURNS, BASE), "tuned": scoring.report(TURNS, RIGHT)}


def test_a_report_has_a_row_for_each_turn(both):
    base = both["base"]
    assert list(base.columns) == [
        "id", "kind", "language", "after", "request", "tool", "ok", "error", "detail", "expected", "got",
        "text",
    ]  # fmt: skip
    assert list(base["error"]) == [
        "no_call", "value", "unreadable", "called_without_need", None, "called_without_need"
    ]  # fmt: skip
    assert list(base["after"]) == ["user"] * 5 + ["tool"] and base["request"].iloc[5] == "Yêu cầu a"
    assert list(base["tool"])[1:4] == ["get_weather", "get_weather + set_alarm", "no call"]
    assert base["got"].iloc[1] == [weather(city="Huế")] and base["text"].iloc[0] == "?"
    assert list(base["language"])[:2] == ["vi", "en"]
    assert both["tuned"]["ok"].all() and both["tuned"]["error"].isna().all()


def test_rows_without_an_id_are_told_apart_by_their_number():
    turns = [{**TURNS[3], "id": None, "row": number} for number in (4, 7)]
    assert list(scoring.report(turns, [said_by(), said_by()])["id"]) == [4, 7]


def test_a_report_compares_strings_as_told():
    said_so = [said_by(weather(city="huế"))]
    assert not scoring.report(TURNS[:1], said_so)["ok"].any()
    assert scoring.report(TURNS[:1], said_so, strings="bfcl")["ok"].all()


def test_a_report_of_other_lengths_is_refused():
    with pytest.raises(LessonError, match="must be equally many, but they are: 5, 6"):
        scoring.report(TURNS, RIGHT[:5])
    with pytest.raises(LessonError, match="There is no answer to score"):
        scoring.report([], [])


def test_rates_are_of_calls_abstention_refusals_and_replies(both):
    table = scoring.rates(both)
    assert list(table.index) == [
        "right calls", "right abstention", "valid requests refused", "right replies"
    ]  # fmt: skip
    assert list(table["base", "mean"]) == pytest.approx([0, 1 / 2, 1 / 3, 0])
    assert list(table["tuned", "mean"]) == pytest.approx([1, 1, 0, 1])
    assert list(table["tuned - base", "mean"]) == pytest.approx([1, 1 / 2, -1 / 3, 1])
    assert list(table["base", "n"]) == [3, 2, 3, 1]
    assert tuple(table.loc["right calls", "base"][["low", "high"]]) == pytest.approx(intervals.wilson(0, 3))
    difference = table.loc["right abstention", "tuned - base"]
    assert (difference["low"], difference["high"]) == (0, 1)
    assert "0.50 [" in intervals.table(table).loc["right abstention", "base"]


def test_rates_leave_out_what_there_are_no_turns_for(both):
    calls = {name: frame[frame["kind"] == "call"].iloc[:2] for name, frame in both.items()}
    assert list(scoring.rates(calls).index) == ["right calls", "valid requests refused"]


def test_turns_of_one_conversation_count_as_one():
    turns = [asked("a", "several", [alarm("7h")])] * 3 + [asked("b", "call", [alarm("7h")])]
    answers = [said_by(alarm("7h"))] * 3 + [said_by()]
    table = scoring.rates({"m": scoring.report(turns, answers)})
    assert table.loc["right calls", ("m", "mean")] == 0.5 and table.loc["right calls", ("m", "n")] == 2


def test_by_kind_has_a_row_for_each_and_for_all(both):
    table = scoring.by_kind(both)
    assert list(table.index) == ["call", "no_tool", "parallel", "(all)"] and table.index.name == "kind"
    assert list(table["base", "mean"])[:3] == pytest.approx([0, 0.5, 0])
    assert list(scoring.by_kind(both, "tool").index) == [
        "get_weather", "get_weather + set_alarm", "no call", "(all)"
    ]  # fmt: skip
    with pytest.raises(LessonError, match="no column 'tools'. There are: id, kind"):
        scoring.by_kind(both, "tools")


def test_by_error_counts_what_went_wrong_in_the_order_of_checking(both):
    table = scoring.by_error(both)
    assert list(table.index) == ["right", "unreadable", "called_without_need", "no_call", "value"]
    assert list(table["base"]) == [1, 1, 2, 1, 1] and list(table["tuned"]) == [6, 0, 0, 0, 0]


def test_mcnemar_is_the_exact_test_of_a_fair_coin():
    turns = [asked(str(number), "call", [alarm("7h")]) for number in range(12)]
    right, wrong = said_by(alarm("7h")), said_by(alarm("8h"))
    base = [right] * 4 + [wrong] * 8
    tuned = [right] * 3 + [wrong] + [right] * 7 + [wrong]  # 1 lost, 7 won, 4 the same
    table = scoring.mcnemar({"base": scoring.report(turns, base), "tuned": scoring.report(turns, tuned)})
    assert list(table.index) == ["calls", "(all)"]
    row = table.loc["(all)"]
    assert (row["n"], row["only base"], row["only tuned"]) == (12, 1, 7)
    assert row["p"] == pytest.approx(2 * (1 + 8) / 2**8)


def test_mcnemar_of_equal_models_and_of_several_turns_a_conversation(both):
    same = scoring.mcnemar({"x": both["base"], "y": both["base"]})
    assert list(same["p"]) == [1, 1, 1] and list(same["only x"]) == [0, 0, 0]
    table = scoring.mcnemar(both)
    assert list(table.index) == ["calls", "abstention", "(all)"]
    assert list(table["n"]) == [3, 2, 5]  # conversation "a" has two turns
    assert list(table["only tuned"]) == [3, 1, 4] and table.loc["(all)", "p"] == pytest.approx(2 / 2**4)
    # 2 ** 2100 is beyond a float; as whole numbers nothing overflows.
    assert 0 < scoring._exact(1000, 1100) < 0.05 < scoring._exact(1000, 1010)
    assert scoring._exact(1000, 1000) == 1


def test_mcnemar_needs_two_models(both):
    with pytest.raises(LessonError, match="takes two models to compare, here is one"):
        scoring.mcnemar({"base": both["base"]})


def test_the_worst_rows_come_first_and_can_be_read(both):
    table = scoring.worst(both["base"])
    assert list(table["error"]) == [
        "unreadable", "called_without_need", "called_without_need", "no_call", "value"
    ]  # fmt: skip
    assert list(table["id"]) == ["c", "d", "a", "a", "b"]
    assert table["expected"].iloc[0] == 'get_weather(city="Huế"); set_alarm(time="7h")'
    assert table["got"].iloc[4] == 'get_weather(city="Huế")' and table["got"].iloc[3] == "?"
    assert table["request"].iloc[4] == "Yêu cầu b" and "Vinh" in table["detail"].iloc[4]
    assert len(scoring.worst(both["base"], 2)) == 2 and scoring.worst(both["tuned"]).empty


def test_reports_of_other_turns_are_not_compared(both):
    other = {"base": both["base"], "tuned": both["tuned"].iloc[::-1]}
    for table in (scoring.rates, scoring.by_kind, scoring.by_error, scoring.mcnemar):
        with pytest.raises(LessonError, match="'tuned' and 'base' are not of the same turns"):
            table(other)
        with pytest.raises(LessonError, match="There is nothing to count yet"):
            table({})
    with pytest.raises(LessonError, match="There is nothing to count yet"):
        scoring.rates({"base": pd.DataFrame()})
