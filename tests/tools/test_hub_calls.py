"""hub_calls: rows in the format of Hermes' function calling, turned into JSON; what can't be is reported.

The rows here were written for these tests; they have the form of the real ones and the flaws of such data.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from lessonlib import tools
from lessonlib.data import _splits as data
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.tools import _hub_calls as hub_calls

TIDE = {
    "type": "function",
    "function": {
        "name": "high_tide",
        "description": "When the tide is highest, for a harbour's area",
        "parameters": {
            "type": "object",
            "properties": {"harbour": {"type": "string"}, "day": {"type": "integer"}},
            "required": ["harbour"],
        },
    },
}
FERRY = {
    "type": "function",
    "function": {
        "name": "book_ferry",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {"seats": {"type": "integer"}, "cabin": {"type": "boolean"}},
            "required": ["seats"],
        },
    },
}


def system(offered=(TIDE, FERRY)):
    """As in the real rows: the tags are first named with nothing inside, and the list is a Python repr."""
    written = offered if isinstance(offered, str) else repr(list(offered))
    return (
        f"Functions are described within <tools></tools> tags. Yours are:<tools> {written} </tools>Write a "
        "call as:\n<tool_call>\n{tool_call}\n</tool_call>"
    )


def raw(inside):
    return f"<tool_call>\n{inside}\n</tool_call>"


def call(name="high_tide", **arguments):
    return raw(repr({"name": name, "arguments": arguments or {"harbour": "Hạ Long"}}))


def result(value):
    return f"<tool_response>\n{value!r}\n</tool_response>"


def talk(*turns, offered=(TIDE, FERRY)):
    """A conversation of turns (role, content), in which "h", "m" and "t" are human, model and tool."""
    names = {"h": "human", "m": "model", "t": "tool"}
    said = [("system", system(offered)), *((names.get(role, role), content) for role, content in turns)]
    return [{"content": content, "role": role} for role, content in said]


ASK = ("h", "When is the tide high in Hạ Long?")
BYE = ("m", "Hi.")
THOUGHT = "<think>It's the tide, so high_tide.\n</think>"
GOOD = talk(ASK, ("m", THOUGHT + call()), ("t", result({"at": "06:10"})), ("m", "At ten past six."))


def bare(**function):
    return {"type": "function", "function": {"name": "f", "description": "", **function}}


def parameters(properties, **more):
    return {"type": "object", "properties": properties, **more}


def with_parameters(properties, **more):
    return talk(ASK, BYE, offered=[bare(parameters=parameters(properties, **more))])


def table(*conversations, column="conversations"):
    return Dataset.from_dict({column: list(conversations)})


def turned(*conversations):
    """The rows that conversations become, all of them, with their JSON read."""
    made, report = hub_calls.from_hermes(table(*conversations))
    assert len(report.removed) == 0
    return [row | {name: json.loads(row[name]) for name in ("tools", "messages")} for row in made]


# ---------------------------------------------------------------- through the real client


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    (folder / "data").mkdir()
    broken = talk(ASK, ("m", THOUGHT + call()[:-12]))
    rows = table(GOOD, broken, GOOD, talk(ASK, ("m", call(harbour="Vinh", day=3))), talk(ASK))
    rows.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LESSONLIB_"))
    }
    script, cache = Path(__file__).parents[1] / "calls_from_hub.py", tmp_path_factory.mktemp("cache")
    done = subprocess.run(
        [sys.executable, script, folder, cache], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_hermes_comes_from_the_hub_at_its_commit_as_calls_in_json(told):
    assert told["commit"] == "ee5bf6e" + "1" * 33
    files = [path for path in told["asked"] if "/resolve/" in path]
    assert files and all(f"/{told['commit']}/" in path for path in files)
    assert told["columns"] == ["conversations"] and told["rows"] == 5
    assert [(row["id"], row["kind"], row["language"]) for row in told["calls"]] == [
        ("hermes-00001", "reply", "en"), ("hermes-00004", "call", "en")
    ]
    first = told["calls"][0]
    assert json.loads(first["tools"]) == [TIDE, FERRY]
    assert json.loads(first["messages"]) == [
        {"role": "user", "content": ASK[1]},
        {
            "role": "assistant",
            "thinking": "It's the tide, so high_tide.",
            "tool_calls": [
                {"type": "function", "function": {"name": "high_tide", "arguments": {"harbour": "Hạ Long"}}}
            ],
        },
        {"role": "tool", "name": "high_tide", "content": '{"at": "06:10"}'},
        {"role": "assistant", "content": "At ten past six."},
    ]
    assert [(row["step"], row["line"]) for row in told["gone"]] == [("roles", 5), ("calls", 2), ("same", 3)]


def test_a_commit_is_not_guessed(told):
    none, two, nowhere = told["refused"]
    assert "0 of 5 commits begin with 1234567" in none[0] and "0 trong 5 commit" in none[1]
    assert "2 of 5 commits begin with abcdef0" in two[0]
    assert "There is no datasets/nobody/nothing on the Hub" in nowhere[0]


def test_whole_commit_checks_its_arguments():
    assert data.whole_commit("a/b", "0" * 40) == "0" * 40  # nobody is asked: there is no network here
    for begins in ("main", "ee5bf6", "EE5BF6E", "0" * 41):
        with pytest.raises(LessonError, match=f"begins='{begins}': give the first 7 to 40 hexadecimal"):
            data.whole_commit("a/b", begins)
    with pytest.raises(LessonError, match="'a' is no dataset on the Hub"):
        data.whole_commit("a", "ee5bf6e")
    with pytest.raises(LessonError, match="cannot be reached for datasets/a/b"):  # conftest: offline
        data.whole_commit("a/b", "ee5bf6e")


def test_errors_of_other_kinds_are_left_as_they_are(monkeypatch):
    def broken(*_, **__):
        raise KeyError("inside")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_commits", broken)
    with pytest.raises(KeyError, match="inside"):
        data.whole_commit("a/b", "ee5bf6e")


def test_the_pin_is_the_beginning_of_a_commit():
    assert re.fullmatch(r"[\w-]+/[\w.-]+", hub_calls.HERMES)
    assert re.fullmatch(r"[0-9a-f]{7,40}", hub_calls.HERMES_REVISION)


# ---------------------------------------------------------------- rows that go


REASONS = [
    # roles
    ([], "roles", "no turn of the model"),
    (None, "roles", "no turn of the model"),
    (talk(ASK), "roles", "no turn of the model"),
    (GOOD[1:], "roles", "turn 1: 'human' is out of order"),
    (talk(ASK, ASK, BYE), "roles", "turn 3: 'human' is out of order"),
    (talk(ASK, ("m", call()), BYE), "roles", "turn 4: 'model' is out of order"),
    (talk(ASK, ("function", "{}"), BYE), "roles", "turn 3: 'function' is out of order"),
    (talk(("h", " \n"), BYE), "roles", "turn 2: empty"),
    (talk(("h", None), BYE), "roles", "turn 2: empty"),
    (talk(ASK, BYE, ASK), "roles", "turn 4: the last one is not the model's"),
    # tools
    ([{"role": "system", "content": "Hi."}, *GOOD[1:]], "tools", "0 blocks of <tools> in the system's text"),
    (talk(ASK, BYE, offered="[] </tools><tools> []"), "tools", "2 blocks of <tools>"),
    (talk(ASK, BYE, offered="[]"), "tools", "offers no tool"),
    (talk(ASK, BYE, offered="'high_tide'"), "tools", "offers no tool"),
    (talk(ASK, BYE, offered="[{'name': 'f'"), "tools", "turn 1: the text ends before the value is closed"),
    (talk(ASK, BYE, offered="[dict(name='f')]"), "tools", "turn 1: this is no JSON value, at .dict.name"),
    (talk(ASK, BYE, offered="[] + [1]"), "tools", "turn 1: after the value comes '. .1.'"),
    (talk(ASK, BYE, offered="[" * 3000 + "]" * 3000), "tools", "turn 1: it nests more than"),
    # schemas
    (talk(ASK, BYE, offered=[TIDE, TIDE]), "schemas", "Two tools are called 'high_tide'"),
    (talk(ASK, BYE, offered=[bare(name="what is it?")]), "schemas", "cannot be the name of a tool"),
    (talk(ASK, BYE, offered=[{"type": "function"}]), "schemas", "does not describe a function"),
    (talk(ASK, BYE, offered=["high_tide"]), "schemas", "neither a Python function nor a JSON Schema"),
    (talk(ASK, BYE, offered=[bare(parameters=[])]), "schemas", "has to be the JSON Schema of an object"),
    (talk(ASK, BYE, offered=[bare(parameters={"x": "string"})]), "schemas", "has to be the JSON Schema of"),
    (with_parameters({"x": {"type": "weekday"}}), "schemas", "no valid JSON Schema"),
    (with_parameters({"x": {}}, required=["y"]), "schemas", "'required' names 'y'"),
    (with_parameters({"x": {}}, required=True), "schemas", "no valid JSON Schema"),
    (with_parameters({"x": {}, "required": ["x"]}, required=[]), "schemas", "no valid JSON Schema"),
    (
        talk(ASK, BYE, offered=[bare(parameters=parameters({"x": {}}, required=[]), required=["x"])]),
        "schemas", "f: two different 'required', inside and outside",
    ),
    # calls
    (talk(ASK, ("m", THOUGHT + call()[:-12])), "calls", "3: 1 times <tool_call>, 0 times </tool_call>: cut"),
    (talk(ASK, ("m", "<think>It's the t")), "calls", "turn 3: 1 times <think>, 0 times </think>: cut off"),
    (talk(ASK, ("m", THOUGHT)), "calls", "turn 3: a thought and nothing else"),
    (talk(ASK, ("m", call() + " Done.")), "calls", "turn 3: text after a call"),
    (talk(ASK, ("m", call() + result(1))), "calls", "turn 3: the model writes a tool's result"),
    (talk(ASK, ("m", raw("high_tide('Huế')"))), "calls", "turn 3: call 1: this is no JSON value"),
    (talk(ASK, ("m", raw("{'name': 'f', 'arguments': open('/etc')}"))), "calls", "no JSON value, at .open"),
    (talk(ASK, ("m", raw("{'name': 'f', 'arguments': {'day': 1e999}}"))), "calls", "number 1e999 is too"),
    # results
    (talk(ASK, BYE, ("t", result(1)), BYE), "results", "turn 4: a result of no call"),
    (talk(ASK, ("m", call()), ("t", result(1) * 2), BYE), "results", "turn 4: a result of no call"),
    (talk(ASK, ("m", call() * 2), ("t", result(1)), BYE), "results", "turn 5: no result of high_tide yet"),
    (talk(ASK, ("m", call()), ASK, BYE), "results", "turn 4: no result of high_tide yet"),
    (talk(ASK, ("m", call()), ("t", "06:10"), BYE), "results", "turn 4: not of the form <tool_response>"),
    (talk(ASK, ("m", call()), ("t", "It says: " + result(1)), BYE), "results", "turn 4: not of the form"),
    (talk(ASK, ("m", call()), ("t", "<tool_response>{'a': }</tool_response>"), BYE), "results", "4: this is"),
    (
        talk(ASK, ("m", call()), ("t", result({"name": "book_ferry", "content": 1})), BYE),
        "results", "turn 4: a result of 'book_ferry', not of 'high_tide'",
    ),
    # calls against the tools
    (talk(ASK, ("m", call("low_tide"))), "offered", "calls 'low_tide', but there is only: high_tide, book"),
    (talk(ASK, ("m", call(day=3))), "valid", "high_tide: .*harbour"),
    (talk(ASK, ("m", call(harbour="Huế", day="3"))), "valid", "high_tide: .*day"),
    (talk(ASK, ("m", call(harbour="Huế", port=1))), "valid", "high_tide: .*port"),
    # duplicates
    (GOOD, "same", "the same as line 1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sorted_out():
    """One good row, then those of REASONS: what was kept, and the report."""
    return hub_calls.from_hermes(table(GOOD, *(conversation for conversation, _, _ in REASONS)))


@pytest.mark.parametrize("place", range(len(REASONS)))
def test_what_cannot_be_turned_is_reported_with_its_reason(sorted_out, place):
    _, step, reason = REASONS[place]
    (change,) = [change for change in sorted_out[1].changes if change.why and change.line == place + 2]
    assert change.step == step and re.search(reason, change.why["en"]), change


def test_every_row_is_kept_or_reported_once(sorted_out):
    made, report = sorted_out
    assert made["id"][:] == ["hermes-00001"]
    assert sorted(report.removed["line"]) == list(range(2, len(REASONS) + 2))
    counts = report.table
    assert counts["before"].tolist() == [len(REASONS) + 1, *counts["after"][:-1]]
    assert counts["after"].iloc[-1] == 1 and counts["removed"].sum() == len(REASONS)
    assert {step for _, step, _ in REASONS} == set(counts["step"]) - set(REPAIRS)
    language.use("vi")
    told = dict(zip(report.removed["line"], report.removed["reason"], strict=True))
    assert told[2 + next(n for n, (_, _, why) in enumerate(REASONS) if "1e999" in why)] == (
        "lượt 3: lời gọi 1: số 1e999 quá lớn"
    )
    assert {"lượt 3: chỉ có suy nghĩ", "trùng với dòng 1"} <= set(told.values())


def test_nothing_left_and_no_such_data_are_errors():
    with pytest.raises(LessonError, match="Nothing is left of 1 rows"):
        hub_calls.from_hermes(table(talk(ASK)))
    with pytest.raises(LessonError, match="no column 'conversations' .or 'messages'.; the data has: text"):
        hub_calls.from_hermes(Dataset.from_dict({"text": ["a"]}))
    for other in ("a", [{"from": "human", "value": "a"}], [{"role": "human", "content": 1}]):
        with pytest.raises(LessonError, match="Row 1: a conversation must be a list of"):
            hub_calls.from_hermes(table(other))


def test_the_column_may_have_the_name_that_the_source_gives_it():
    made, _ = hub_calls.from_hermes(table(GOOD, column="messages"))
    assert made["id"][:] == ["hermes-00001"]


# ---------------------------------------------------------------- schemas


X = bare(parameters=parameters({"x": {}}, required=["x"]))
REPAIRS = {
    "wrapper": [
        (X["function"], X), ({"type": "function", **X["function"]}, X), ({"function": X["function"]}, X),
    ],
    "parameters": [
        (bare(parameters=None), bare(parameters=parameters({}))),
        (bare(parameters={}), bare(parameters=parameters({}))),
        (bare(parameters={"type": "object"}), bare(parameters=parameters({}))),
        (bare(parameters={"properties": {}}), bare(parameters=parameters({}))),
        (bare(parameters={"x": {"type": "string"}}), bare(parameters=parameters({"x": {"type": "string"}}))),
    ],
    "types": [
        (bare(parameters=parameters({"x": {"type": was}})), bare(parameters=parameters({"x": {"type": now}})))
        for was, now in (
            ("str", "string"), ("float", "number"), ("Int", "integer"), ("bool", "boolean"),
            ("list", "array"), ("OBJECT", "object"), (["str", "None"], ["string", "null"]),
        )
    ] + [
        (bare(parameters={"type": "dict", "properties": {}}), bare(parameters=parameters({}))),
        (bare(parameters=parameters({"x": {"type": "any"}})), bare(parameters=parameters({"x": {}}))),
        (
            bare(parameters=parameters({"x": {"type": "array", "items": {"type": "int"}}})),
            bare(parameters=parameters({"x": {"type": "array", "items": {"type": "integer"}}})),
        ),
        (
            bare(parameters=parameters({"x": {"anyOf": [{"type": "str"}, {"type": "null"}]}})),
            bare(parameters=parameters({"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}})),
        ),
        (
            bare(parameters=parameters({"type": {"type": "str", "enum": ["int"]}})),
            bare(parameters=parameters({"type": {"type": "string", "enum": ["int"]}})),
        ),
    ],
    "required": [
        (bare(parameters=parameters({"x": {}}), required=["x"]), X),
        (bare(parameters=X["function"]["parameters"], required=["x"]), X),
        (bare(parameters=parameters({"x": {}, "required": ["x"]})), X),
        (bare(parameters=parameters({"x": {}}, required="x")), X),
        (bare(parameters=parameters({"x": {}}, required=None)), bare(parameters=parameters({"x": {}}))),
        (
            bare(parameters=parameters({"x": {"required": True}, "y": {"required": False}})),
            bare(parameters=parameters({"x": {}, "y": {}}, required=["x"])),
        ),
        (
            bare(parameters=parameters({"x": parameters({"z": {"required": True}}, required=None)})),
            bare(parameters=parameters({"x": parameters({"z": {}}, required=["z"])})),
        ),
    ],
}  # fmt: skip


CASES = [(step, was, now) for step, cases in REPAIRS.items() for was, now in cases]


@pytest.fixture(scope="module")
def mended():
    asked = ([("h", f"Question {number}"), BYE] for number in range(len(CASES)))
    return hub_calls.from_hermes(
        table(*(talk(*turns, offered=[was]) for turns, (_, was, _) in zip(asked, CASES, strict=True)))
    )


@pytest.mark.parametrize("place", range(len(CASES)))
def test_a_schema_that_can_only_mean_one_thing_is_mended_and_counted(mended, place):
    made, report = mended
    step, _, now = CASES[place]
    assert len(made) == len(CASES) and json.loads(made[place]["tools"]) == [now]
    changed = [change.step for change in report.changes if change.line == place + 1]
    assert [name for name in changed if name in REPAIRS] == [step]


def test_properties_called_like_keywords_are_left_alone():
    odd = bare(parameters=parameters({
        "type": {"type": "string"}, "required": {"type": "boolean"}, "properties": {"type": "string"},
    }, required=["type"]))  # fmt: skip
    rows = turned(talk(ASK, BYE, offered=[odd]))
    assert rows[0]["tools"] == [odd]


def test_tools_may_be_json_or_a_single_one():
    for written in (json.dumps([TIDE]), repr(TIDE), json.dumps(TIDE)):
        rows = turned(talk(ASK, ("m", call()), offered=written))
        assert rows[0]["tools"] == [TIDE]


# ---------------------------------------------------------------- turns


def test_python_literals_become_json():
    said = raw("{'name': 'book_ferry', 'arguments': {'seats': 2, 'cabin': True}}")
    answer = result({"note": "it's \"full\"", "until": None, "stops": ["Vinh", 1.5]})
    rows = turned(talk(ASK, ("m", said), ("t", answer), ("m", "Booked.")))
    _, asked, answered, _ = rows[0]["messages"]
    assert asked["tool_calls"][0]["function"]["arguments"] == {"seats": 2, "cabin": True}
    assert json.loads(answered["content"]) == {"note": "it's \"full\"", "until": None, "stops": ["Vinh", 1.5]}


def test_results_go_to_their_calls_in_order():
    both = call() + "\n" + call("book_ferry", seats=2)
    given = (("high_tide", {"at": 6}), ("book_ferry", "ok"))
    named = [result({"name": name, "content": content}) for name, content in given]
    expected = [("high_tide", '{"at": 6}'), ("book_ferry", '"ok"')]
    for turns in ([("t", "\n".join(named))], [("t", named[0]), ("t", named[1])]):
        rows = turned(talk(ASK, ("m", both), *turns, ("m", "Done.")))
        found = [it for it in rows[0]["messages"] if it["role"] == "tool"]
        assert [(it["name"], it["content"]) for it in found] == expected


def test_results_are_json_literals_or_text():
    cases = [
        ("06:10 at high water", "06:10 at high water"), ("['a', 'b']", ["a", "b"]), ("", ""),
        ('{"at": null, "ok": true}', {"at": None, "ok": True}), ({"name": "x"}, {"name": "x"}),
    ]  # fmt: skip
    said = [("t", f"<tool_response>\n{inside}\n</tool_response>") for inside, _ in cases]
    rows = turned(*(talk(ASK, ("m", call()), turn, ("m", "Done.")) for turn in said))
    assert [json.loads(row["messages"][2]["content"]) for row in rows] == [value for _, value in cases]


def test_a_thought_may_speak_of_the_tags():
    said = "<think>I write <tool_call> now, and no <tool_response>.</think>" + call()
    rows = turned(talk(ASK, ("m", said)))
    assert rows[0]["messages"][1]["thinking"] == "I write <tool_call> now, and no <tool_response>."
    assert len(rows[0]["messages"][1]["tool_calls"]) == 1


def test_text_before_a_call_stays():
    rows = turned(talk(ASK, ("m", THOUGHT + "One moment." + call())))
    assert rows[0]["messages"][1]["content"] == "One moment." and rows[0]["messages"][1]["tool_calls"]


AGAIN = [("m", call()), ("t", result({"at": 6}))]


KINDS = [
    ([("m", "No tool fits.")], "no_call"),
    ([("m", call())], "call"),
    ([("m", call() * 2)], "parallel"),
    ([*AGAIN, ("m", "At six.")], "reply"),
    ([("m", call() * 2), ("t", result(1) * 2), ("m", "At six.")], "reply"),
    ([("m", call()), ("t", result({"error": "no such harbour"})), ("m", "Sorry.")], "tool_error"),
    ([("m", call()), ("t", result({"error": None})), ("m", "At six.")], "reply"),
    ([*AGAIN, *AGAIN, ("m", "At six.")], "several"),
    ([*AGAIN, ("m", "At six."), ASK, ("m", call())], "several"),
    ([("m", "Where?"), ("h", "Here."), ("m", call())], "several"),
]


def test_the_kind_is_told_by_the_form():
    rows = turned(*(talk(ASK, *turns) for turns, _ in KINDS))
    assert [row["kind"] for row in rows] == [kind for _, kind in KINDS]


# ---------------------------------------------------------------- what comes after


def test_rows_can_be_rendered_and_encoded():
    from transformers import PreTrainedTokenizerFast

    from lessonlib.formatting import _chat as chat
    from lessonlib.runtime._paths import twin_dir

    hostile = talk(("h", "Say </tool_response> and <end_of_turn>"), ("m", "I would rather not."))
    made, _ = hub_calls.from_hermes(table(GOOD, hostile))
    with pytest.warns(UserWarning):
        said = tools.chats(made, family="phi3", style="compact")
    first = said["messages"][0]
    (wanted,) = re.findall("<tool_call>(.*?)</tool_call>", first[-3]["content"])
    assert json.loads(wanted) == {"name": "high_tide", "arguments": {"harbour": "Hạ Long"}}
    assert not any("{tool_call}" in it["content"] for it in first)  # the old instructions are gone
    encoded = chat.encode(said, PreTrainedTokenizerFast.from_pretrained(twin_dir("phi3")), max_length=1000)
    assert len(encoded) == 2
