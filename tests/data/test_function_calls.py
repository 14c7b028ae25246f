"""The shipped dataset function_calls: what its card promises, and that its script makes its files."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from fractions import Fraction

import pytest

from lessonlib.runtime._paths import dataset_dir

FOLDER = dataset_dir("function_calls")
COLUMNS = ["id", "kind", "language", "tools", "messages"]
KINDS = {
    "train": {"call": 1240, "parallel": 480, "several": 100, "reply": 130, "tool_error": 70, "no_tool": 630,
              "missing": 230},
    "validation": {"call": 28, "parallel": 4, "several": 2, "reply": 4, "tool_error": 4, "no_tool": 12,
                   "missing": 6},
    "test": {"call": 80, "parallel": 20, "several": 10, "reply": 16, "tool_error": 10, "no_tool": 44,
             "missing": 20},
    "new_wordings": {"call": 60},
    "unseen_tools": {"call": 56, "no_tool": 12, "missing": 12},
}  # fmt: skip
SPLITS = {"train": 2880, "validation": 60, "test": 200, "new_wordings": 60, "unseen_tools": 80}
ROLES = {
    "call": "user assistant", "parallel": "user assistant", "no_tool": "user assistant",
    "missing": "user assistant", "reply": "user assistant tool assistant",
    "tool_error": "user assistant tool assistant", "several": "user assistant tool assistant tool assistant",
}  # fmt: skip
HELD_OUT = {"get_flight_status", "find_hotel", "track_parcel", "search_news"}
NO_TOOL = {"vi": "Xin lỗi, tôi không có công cụ cho việc này.", "en": "Sorry, I have no tool for that."}
FORMS = {  # of values that make.py draws
    "order_id": r"[A-Z]?\d{4}", "parcel_id": r"[A-Z]{2}\d{4}", "flight": r"[A-Z]{2}\d{3}",
    "symbol": "[A-Z]{3}",
    "time": r"\d{1,2}:\d\d", "date": r"\d{1,2}/\d{1,2}", "amount": r"\d+", "value": r"\d+", "minutes": r"\d+",
    "nights": r"\d+", "max_price": r"\d+",
}  # fmt: skip
VIETNAMESE = re.compile("[ăâđêôơưạ-ỹàáâãèéêìíòóôõùúý]")


def read(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def contains(text, value):
    """Whether the value stands in the text, as whole words and as it is written."""
    return re.search(rf"(?<![\w/:]){re.escape(str(value))}(?![\w/:])", text) is not None


def words(text):
    return set(re.findall(r"[^\W_]+", re.sub(r"{\w+}", " ", text).casefold()))


def calls(row):
    return [each["function"] for message in row["messages"] for each in message.get("tool_calls", [])]


def request(row):
    return row["messages"][0]["content"]


@pytest.fixture(scope="module")
def tools():
    return {row["name"]: row for row in read("tools")}


@pytest.fixture(scope="module")
def values():
    found = defaultdict(list)
    for row in read("values"):
        found[row["kind"]].append(row)
    return found


@pytest.fixture(scope="module")
def splits():
    """The splits with `tools` and `messages` read, and with the names of the offered tools."""
    made = {name: read(name) for name in SPLITS}
    for rows in made.values():
        for row in rows:
            row["text"] = row["messages"]
            row["tools"], row["messages"] = json.loads(row["tools"]), json.loads(row["messages"])
            row["offered"] = [each["function"]["name"] for each in row["tools"]]
    return made


@pytest.fixture(scope="module")
def everything(splits):
    return [row for rows in splits.values() for row in rows]


@pytest.fixture(scope="module")
def asked(tools, values):
    """A function: the (tool, key of the wording, text of the wording) that a text could have come from."""
    patterns = defaultdict(list)
    for name, tool in tools.items():
        for key in ("wordings", "wordings_test", "optional", "missing", "missing_test"):
            for language in ("vi", "en"):
                for each in tool[key][language]:
                    wording = each["text"] if key.startswith("missing") else each
                    pattern = re.escape(wording).replace(r"\{", "{").replace(r"\}", "}")
                    for parameter, form in tool["parameters"]["properties"].items():
                        listed = form.get("enum") or [row[language] for row in values.get(parameter, [])]
                        blank = FORMS.get(parameter) or "|".join(map(re.escape, listed))
                        pattern = pattern.replace("{" + parameter + "}", f"(?:{blank})")
                    patterns[language].append((re.compile(pattern), (name, key, wording)))
    around = {
        lang: [row[lang] for kind in ("before", "after") for row in values[kind]] for lang in ("vi", "en")
    }

    def find(row):
        text = request(row)
        for other in around[row["language"]]:
            text = text.removeprefix(f"{other} ").removesuffix(f" {other}")
        return [found for pattern, found in patterns[row["language"]] if pattern.fullmatch(text)]

    return find


def test_shipped_files_are_what_the_script_makes(load_make, tmp_path):
    load_make("function_calls").main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(made) == sorted(f"{name}.jsonl" for name in SPLITS)
    for name, content in made.items():
        assert content == (FOLDER / name).read_bytes(), f"{name}: run data/function_calls/make.py"


def test_splits_have_their_counts_columns_and_kinds_half_of_each_language(splits):
    for name, rows in splits.items():
        assert len(rows) == SPLITS[name]
        assert all(list(row)[:5] == COLUMNS for row in rows)
        counts = Counter((row["kind"], row["language"]) for row in rows)
        expected = {(k, lang): count // 2 for k, count in KINDS[name].items() for lang in ("vi", "en")}
        assert counts == expected, name


def test_datasets_loads_the_folder_as_text_columns(tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(FOLDER), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in loaded.items()} == SPLITS
    assert loaded["test"][0] == read("test")[0]
    assert {feature.dtype for feature in loaded["train"].features.values()} == {"string"}


def test_ids_are_unique_and_no_request_is_there_twice(everything):
    assert len({row["id"] for row in everything}) == len({request(row) for row in everything}) == 3280
    for row in everything:
        split, group, _, language = row["id"].split("-")
        assert split in SPLITS and language == row["language"]
        assert ("no_tool" if group in ("absent", "smalltalk") else group) == row["kind"]


@pytest.mark.parametrize(
    ("name", "absent", "smalltalk"), [("train", 480, 150), ("validation", 6, 6), ("test", 22, 22)]
)
def test_no_tool_is_an_absent_tool_or_small_talk(splits, name, absent, smalltalk):
    groups = Counter(row["id"].split("-")[1] for row in splits[name] if row["kind"] == "no_tool")
    assert groups == {"absent": absent, "smalltalk": smalltalk}
    assert sum(groups.values()) == KINDS[name]["no_tool"]


def test_the_table_has_fourteen_trained_tools_and_four_held_out(tools):
    jsonschema = pytest.importorskip("jsonschema")
    assert len(tools) == 18 and {n for n, row in tools.items() if row["split"] == "unseen"} == HELD_OUT
    for name, tool in tools.items():
        jsonschema.Draft202012Validator.check_schema(tool["parameters"])
        required, known = set(tool["parameters"]["required"]), set(tool["parameters"]["properties"])
        for language in ("vi", "en"):
            texts = tool["wordings"][language]
            assert len(texts) == 8 and len(tool["wordings_test"][language]) == (0 if name in HELD_OUT else 2)
            for text in texts + tool["wordings_test"][language]:
                assert set(re.findall(r"{(\w+)}", text)) == required, text
            for text in tool["optional"][language]:
                assert required < set(re.findall(r"{(\w+)}", text)) <= known, text
            for each in tool["missing"][language] + tool["missing_test"][language]:
                assert each["lacks"] in required - set(re.findall(r"{(\w+)}", each["text"])), each
                assert tool["labels"][each["lacks"]][language]
        assert bool(known - required) == bool(tool["optional"]["vi"])


def test_two_to_four_tools_are_offered_as_the_table_has_them(everything, tools):
    keys = ("name", "description", "parameters")
    for row in everything:
        assert 2 <= len(row["offered"]) == len(set(row["offered"])) <= 4
        for each in row["tools"]:
            tool = tools[each["function"]["name"]]
            assert each == {"type": "function", "function": {key: tool[key] for key in keys}}


def test_the_needed_tool_is_anywhere_among_those_offered(splits):
    rows = [row for row in splits["train"] if row["kind"] == "call" and len(row["offered"]) == 4]
    places = Counter(row["offered"].index(calls(row)[0]["name"]) for row in rows)
    assert len(rows) > 100 and all(0.15 < places[place] / len(rows) < 0.35 for place in range(4))
    sizes = {
        k: [len(row["offered"]) for row in splits["train"] if row["kind"] == k] for k in ("call", "no_tool")
    }
    share = {2: 0.4, 3: 0.4, 4: 0.2}
    for each in sizes.values():
        assert all(abs(each.count(size) / len(each) - share[size]) < 0.08 for size in share)


def test_messages_have_the_roles_and_keys_of_their_kind(everything):
    for row in everything:
        assert " ".join(message["role"] for message in row["messages"]) == ROLES[row["kind"]]
        for message in row["messages"]:
            keys = {"user": ["content"], "tool": ["name", "content"], "assistant": ["thinking", "content"]}
            expected = ["thinking", "tool_calls"] if "tool_calls" in message else keys[message["role"]]
            assert list(message) == ["role", *expected]
        assert len(calls(row)) == {"parallel": 2, "several": 2, "no_tool": 0, "missing": 0}.get(
            row["kind"], 1
        )


def test_json_is_compact(splits):
    for row in (row for rows in splits.values() for row in rows):
        assert row["text"] == json.dumps(row["messages"], ensure_ascii=False, separators=(",", ":"))
        for message in row["messages"]:
            if message["role"] == "tool":
                content = json.loads(message["content"])
                assert message["content"] == json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def test_every_call_is_valid_and_of_an_offered_tool(everything):
    jsonschema = pytest.importorskip("jsonschema")
    validators = {}
    for row in everything:
        schemas = {each["function"]["name"]: each["function"]["parameters"] for each in row["tools"]}
        for call in calls(row):
            name = call["name"]
            if name not in validators:
                closed = schemas[name] | {"additionalProperties": False}
                validators[name] = jsonschema.Draft202012Validator(closed)
            assert name in schemas and not list(validators[name].iter_errors(call["arguments"])), row["id"]
    assert len(validators) == 18


def test_every_argument_is_copied_from_the_request(everything):
    for row in everything:
        for call in calls(row):
            for name, value in call["arguments"].items():
                assert contains(request(row), value), (row["id"], name, value)
                assert not isinstance(value, (bool, float)) and len(str(value).split()) <= 3


def test_the_calls_are_what_the_request_asks_for(everything, tools, asked):
    for row in everything:
        if row["kind"] in ("parallel", "several"):  # both wordings, filled in, stand in the request in order
            places = []
            for call in calls(row):
                tool = tools[call["name"]]
                filled = [
                    wording.format(**call["arguments"]).rstrip(".?!").casefold()
                    for wording in tool["wordings"][row["language"]] + tool["optional"][row["language"]]
                    if set(re.findall(r"{(\w+)}", wording)) == set(call["arguments"])
                ]
                text = request(row).casefold()
                places.append(max(text.find(each) for each in filled))
            assert -1 < places[0] < places[1], row["id"]
            assert calls(row)[0] != calls(row)[1]
        elif calls(row):
            (call,) = calls(row)
            found = [each for each in asked(row) if each[1] in ("wordings", "wordings_test", "optional")]
            fits = [text for name, _, text in found if name == call["name"]]
            assert any(text.format(**call["arguments"]) in request(row) for text in fits), row["id"]
            assert not [name for name, _, _ in found if name != call["name"] and name in row["offered"]], row[
                "id"
            ]


def test_thinking_is_the_decision(everything):
    for row in everything:
        turns = [message for message in row["messages"] if message["role"] == "assistant"]
        for turn in turns:
            if "tool_calls" in turn:
                assert turn["thinking"] == ", ".join(each["function"]["name"] for each in turn["tool_calls"])
        last = turns[-1].get("thinking")
        if row["kind"] == "missing":
            assert re.fullmatch(r"[a-z_]+ lacks [a-z_]+", last)
        elif row["kind"] not in ("call", "parallel"):
            assert last == {"no_tool": "none", "tool_error": "error"}.get(row["kind"], "done")


def test_no_offered_tool_fits_a_no_tool_request(everything, asked):
    smalltalk = {row[language] for row in read("smalltalk") for language in ("vi", "en")}
    for row in (row for row in everything if row["kind"] == "no_tool"):
        assert row["messages"][-1]["content"] == NO_TOOL[row["language"]]
        needed = {name for name, _, _ in asked(row)}
        assert not needed & set(row["offered"]), row["id"]
        if "-absent-" in row["id"]:
            assert needed
        else:
            assert not needed and any(text in request(row) for text in smalltalk)


def test_missing_asks_for_the_one_argument_that_the_request_lacks(everything, tools, asked):
    ask = {"vi": "Bạn cho tôi biết {} nhé?", "en": "Please tell me the {}."}
    for row in (row for row in everything if row["kind"] == "missing"):
        name, lacks = row["messages"][-1]["thinking"].split(" lacks ")
        assert name in row["offered"] and lacks in tools[name]["parameters"]["required"]
        label = tools[name]["labels"][lacks][row["language"]]
        assert row["messages"][-1]["content"] == ask[row["language"]].format(label)
        found = [(tool, text) for tool, key, text in asked(row) if tool in row["offered"]]
        listed = [each for key in ("missing", "missing_test") for each in tools[name][key][row["language"]]]
        lacking = {(name, each["text"]) for each in listed if each["lacks"] == lacks}
        assert found and set(found) <= lacking, row["id"]


def test_replies_copy_arguments_and_results(everything, tools, values):
    errors = {row[language] for row in values["error"] for language in ("vi", "en")}
    for row in everything:
        results = [json.loads(each["content"]) for each in row["messages"] if each["role"] == "tool"]
        named = [each["name"] for each in row["messages"] if each["role"] == "tool"]
        said = row["messages"][-1].get("content")
        if row["kind"] == "tool_error":
            fixed = {"vi": "Công cụ báo lỗi: {}.", "en": "The tool reports an error: {}."}[row["language"]]
            assert said == fixed.format(results[0]["error"]) and results[0]["error"] in errors
        elif results:
            assert named == [call["name"] for call in calls(row)]
            replies = []
            for call, result in zip(calls(row), results, strict=True):
                assert list(result) == list(tools[call["name"]]["result"])
                replies.append(
                    tools[call["name"]]["reply"][row["language"]].format(**call["arguments"], **result)
                )
            assert said == " ".join(replies), row["id"]


def test_results_of_conversions_and_translations_are_right(load_make, everything, values):
    make = load_make("function_calls")
    metres = {
        "km": Fraction(1000),
        "m": Fraction(1),
        "cm": Fraction(1, 100),
        "kg": Fraction(1000),
        "g": Fraction(1),
    }
    words = {row[language]: row["translations"] for row in values["word"] for language in ("vi", "en")}
    languages = {row[language]: row["en"] for row in values["language"] for language in ("vi", "en")}
    checked = Counter()
    for row in (row for row in everything if row["kind"] in ("reply", "several")):
        results = [json.loads(each["content"]) for each in row["messages"] if each["role"] == "tool"]
        for call, result in zip(calls(row), results, strict=True):
            given = call["arguments"]
            checked[call["name"]] += 1
            if call["name"] == "convert_unit":
                expected = given["value"] * metres[given["from_unit"]] / metres[given["to_unit"]]
                assert Fraction(str(result["result"])) == expected
            elif call["name"] == "convert_currency":
                rates = Fraction(make.VND[given["from_currency"]], make.VND[given["to_currency"]])
                assert abs(Fraction(str(result["result"])) - given["amount"] * rates) <= Fraction(1, 200)
            elif call["name"] == "translate_word":
                assert result["translation"] == words[given["word"]][languages[given["language"]]]
    assert min(checked[name] for name in ("convert_unit", "convert_currency", "translate_word")) >= 5


def test_no_value_of_the_test_pool_is_in_training(splits, tools):
    def free(rows):
        for row in rows:
            for call in calls(row):
                forms = tools[call["name"]]["parameters"]["properties"]
                yield from (value for key, value in call["arguments"].items() if "enum" not in forms[key])

    seen = {*free(splits["train"]), *free(splits["validation"])}
    trained = "\n".join(row["text"] for name in ("train", "validation") for row in splits[name]).casefold()
    for name in ("test", "new_wordings", "unseen_tools"):
        new = set(free(splits[name]))
        assert len(new) > 50 and not new & seen
        texts = [value.casefold() for value in new if isinstance(value, str)]
        assert not [text for text in texts if text in trained and contains(trained, text)]
    assert contains(trained, "đà nẵng") and contains(trained, "birthday")  # the search finds what is there


def test_identifiers_are_never_used_twice(everything):
    names = ("order_id", "symbol", "flight", "parcel_id")
    used = Counter(call["arguments"].get(name) for row in everything for call in calls(row) for name in names)
    del used[None]
    assert len(used) > 250 and set(used.values()) == {1}


def test_held_out_tools_are_never_offered_or_asked_for_outside_their_split(splits, asked):
    for name in ("train", "validation", "test", "new_wordings"):
        for row in splits[name]:
            assert not HELD_OUT & set(row["offered"])
            assert not HELD_OUT & {tool for tool, _, _ in asked(row)}
    assert not [
        line for line in (FOLDER / "train.jsonl").open(encoding="utf-8") if any(t in line for t in HELD_OUT)
    ]


def test_unseen_tools_asks_for_all_held_out_tools(splits, asked):
    rows = splits["unseen_tools"]
    called = Counter(call["name"] for row in rows for call in calls(row))
    assert called == dict.fromkeys(HELD_OUT, 14)
    lacking = Counter(row["messages"][-1]["thinking"].split()[0] for row in rows if row["kind"] == "missing")
    assert set(lacking) == HELD_OUT
    absent = [row for row in rows if row["kind"] == "no_tool"]
    trained = [row for row in absent if not HELD_OUT & {name for name, _, _ in asked(row)}]
    assert 0 < len(trained) < len(absent)
    assert all(set(row["offered"]) <= HELD_OUT for row in trained)
    assert not any(HELD_OUT & set(row["offered"]) for row in absent if row not in trained)


def test_wordings_of_the_splits_are_those_they_should_have(splits, asked):
    keys = {"train": {"wordings", "optional"}, "new_wordings": {"wordings_test"}}
    for name, rows in splits.items():
        for row in rows:
            if row["kind"] in ("call", "reply", "tool_error"):
                (found,) = {key for tool, key, _ in asked(row) if tool == calls(row)[0]["name"]}
                assert found in keys.get(name, keys["train"]), row["id"]
            if row["kind"] == "missing":
                offered = {key for tool, key, _ in asked(row) if tool in row["offered"]}
                assert offered == {"missing_test" if name == "test" else "missing"}


def test_new_wordings_have_no_word_that_was_not_trained(splits, tools):
    talks = read("smalltalk")
    assert Counter(row["split"] for row in talks) == {"train": 18, "test": 6}
    for language in ("vi", "en"):
        known = set()
        for row in splits["train"]:
            if row["language"] == language:
                known |= words(request(row))
        new = [row[language] for row in talks if row["split"] == "test"]
        for tool in tools.values():
            new += tool["wordings_test"][language] + [each["text"] for each in tool["missing_test"][language]]
        assert len(new) > 45 and not [(text, words(text) - known) for text in new if words(text) - known]
        trained = {row[language] for row in talks if row["split"] == "train"}
        assert not trained & set(new)
    for row in splits["train"] + splits["validation"]:
        assert not any(each[row["language"]] in request(row) for each in talks if each["split"] == "test")


def test_texts_are_clean_and_in_nfc(everything):
    for name in (*SPLITS, "tools", "values", "smalltalk"):
        assert unicodedata.is_normalized("NFC", (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8"))
    for row in everything:
        for message in row["messages"]:
            text = message.get("content", message.get("thinking"))
            assert text == " ".join(text.split()) and not re.search("[\u00ad\u200b-\u200f\ufeff]", text)
            if message["role"] != "tool" and "tool_calls" not in message:
                assert text[-1] in ".?!" and not re.search(r"[{}<>\[\]]", text), text


def test_vietnamese_has_its_marks_and_english_requests_none(everything):
    for row in everything:
        marked = VIETNAMESE.search(request(row).casefold())
        assert bool(marked) == (row["language"] == "vi"), request(row)
        assert row["language"] == "vi" or request(row).isascii()


def nearest(row, rows):
    """The row of the same language whose request shares most words with this one's (Jaccard)."""
    mine = row["words"]
    candidates = [each for each in rows if each["language"] == row["language"]]
    return max(candidates, key=lambda e: (len(mine & e["words"]) / len(mine | e["words"]), e["id"]))


def test_the_card_states_what_copying_the_most_similar_row_scores(splits):
    for row in splits["train"] + splits["test"]:
        row["words"] = words(request(row))
    found = [(row, nearest(row, splits["train"])) for row in splits["test"]]
    decided = sum(row["messages"][1]["thinking"] == other["messages"][1]["thinking"] for row, other in found)
    right = sum(row["messages"][1] == other["messages"][1] for row, other in found)
    made = sum(row["messages"][1] == other["messages"][1] and bool(calls(row)) for row, other in found)
    card = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    assert f"makes the right decision in {decided} of the 200 first turns of `test`" in card
    assert f"writes the whole turn right in {right}, {made} of them with a call" in card


def test_the_card_states_the_counts(splits, everything, tools):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, count in SPLITS.items():
        assert f"| {name}.jsonl | {count} |" in card
        assert f"- split: {name}\n        path: {name}.jsonl" in card
    for name in ("tools", "values", "smalltalk"):
        assert f"| {name}.jsonl | {len(read(name))} |" in card
    for kind in ROLES:
        row = " | ".join(str(KINDS[name].get(kind, 0)) for name in SPLITS)
        assert re.search(rf"^\| {kind} \| {re.escape(row)} \|", card, re.M), (kind, row)
    for name, tool in tools.items():
        trained = sum(call["name"] == name for row in splits["train"] for call in calls(row))
        tested = sum(call["name"] == name for row in everything for call in calls(row)) - trained
        required = tool["parameters"]["required"]
        shown = ", ".join(
            each if each in required else f"{each}?" for each in tool["parameters"]["properties"]
        )
        assert f"| {name} | {shown} | {trained} | {tested} |" in card, (name, shown, trained, tested)
    assert f"{len(everything)} " in card and "license: cc-by-4.0" in card
