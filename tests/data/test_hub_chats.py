"""hub_chats: rows of the two Hub datasets as conversations; every row left out is reported with its reason.

The samples here were written for these tests; they have the form and the flaws of the real files.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from lessonlib.data import _hub_chats as hub_chats
from lessonlib.data import _placeholders as placeholders
from lessonlib.data import _splits as data
from lessonlib.formatting import _chat as chat
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import dataset_dir, twin_dir

SUPPORT = [  # flags, instruction, category, intent, response
    ("B", "i want to cancel order {{Order Number}}", "ORDER", "cancel_order",
     "Order {{Order Number}} will be cancelled.\n\nCall {{Customer Support Phone Number}} with questions."),
    ("BL", "I want to cancel order {{Order Number}}?", "ORDER", "cancel_order",
     "Tell us why order {{ Order Number }} is not wanted, at {{Website URL}}."),
    ("B", "where is my refund of {{Currency Symbol}}{{Refund Amount}}", "REFUND", "track_refund",
     "The {{Currency Symbol}}{{Refund Amount}} left us today."),
    ("B", "find order {{Order Number}}", "ORDER", "track_order",
     "Open '{{Online Order Interaction}}' or '{{Online Order Interaction}}'."),
    ("Q", "how do i sign up", "ACCOUNT", "create_account", "Press Sign up."),
    ("Q", "How do I sign up?", "ACCOUNT", "create_account", "Press sign up!"),
    ("B", "say something", "CONTACT", "contact_customer_service", ""),
]
COUNSELING = [  # Context, Response
    ("I cannot sleep before exams.", "That sounds tiring. Try to put the books away an hour earlier."),
    ("I cannot sleep before exams.", "A walk in the evening may help."),
    ("I cannot sleep before exams!", "A  walk in the evening may help. "),
    ("I feel suicidal.", "Thank you for telling somebody."),
    ("My brother is sad.", "Ask him whether he thinks of self-harm."),
    ("I think they’d be better off. I don’t want to live.", "Please talk to somebody near you."),
    ("I am lonely.", "Call me at (555) 010-0199, I have time."),
    ("I am lonely.", "More at www.somebody.example."),
    ("I am lonely.", None),
    (" ", "Hello."),
    ("I worry a lot.", "word " * 601),
    ("I have been lonely since 2010-2015.", "Two people are company.Look around you."),
]


def support(rows=SUPPORT):
    names = ("flags", "instruction", "category", "intent", "response")
    return Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])


def counseling(rows=COUNSELING):
    return Dataset.from_list([{"Context": said, "Response": answer} for said, answer in rows])


def spoken(row):
    return [message["content"] for message in row["messages"]]


# ---------------------------------------------------------------- both, through the real client


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    for name in ("bitext", "Amod"):
        (folder / name).mkdir()
    with open(folder / "bitext" / "Sample_27K_responses-v11.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([support().column_names, *SUPPORT])
    lines = (json.dumps({"Context": said, "Response": answer}) + "\n" for said, answer in COUNSELING)
    (folder / "Amod" / "combined_dataset.json").write_text("".join(lines))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LESSONLIB_"))
    }
    script, cache = Path(__file__).parents[1] / "chats_from_hub.py", tmp_path_factory.mktemp("cache")
    done = subprocess.run(
        [sys.executable, script, folder, cache], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_bitext_comes_from_the_hub_as_conversations_without_a_placeholder(told):
    assert told["columns"] == ["flags", "instruction", "category", "intent", "response"]
    counts = {(row["name"], row["column"]): (row["count"], row["malformed"]) for row in told["found"]}
    assert counts["Order Number", "instruction"] == (3, 0)
    assert counts["Order Number", "response"] == (2, 1)
    assert counts["Online Order Interaction", "response"] == (2, 0)

    assert [row["id"] for row in told["chats"]] == [
        "cancel_order-00001", "cancel_order-00002", "track_refund-00003", "create_account-00005"
    ]
    first, second, refund, _ = map(spoken, told["chats"])
    number = first[1].removeprefix("i want to cancel order ")
    assert re.fullmatch(r"\d{5}", number)
    assert first == [
        "You work at the support desk.", f"i want to cancel order {number}",
        f"Order {number} will be cancelled.\n\nCall 555-0142 with questions.",
    ]
    assert second[2] != first[2] and number not in second[2]
    amount = re.search(r"\$\d+\.\d\d", refund[1])[0]
    assert amount in refund[2]
    filling, making = told["gone"]
    assert [(row["line"], row["reason"]) for row in filling] == [
        (4, "response: no value for {{Online Order Interaction}}")
    ]
    assert [(row["step"], row["line"], row["reason"]) for row in making] == [
        ("empty", 7, "response: empty"), ("same", 6, "the same as line 5")
    ]


def test_counseling_comes_from_the_hub_without_crises(told):
    kept = told["counseling"]["chats"]
    assert [row["id"] for row in kept] == ["counseling-00001", "counseling-00002", "counseling-00012"]
    assert spoken(kept[0]) == ["Be kind.", *COUNSELING[0]]
    assert [row["group"] for row in kept] == ["q00001", "q00001", "q00012"]
    assert [(row["step"], row["line"]) for row in told["counseling"]["gone"]] == [
        ("empty", 9), ("empty", 10), ("crisis", 4), ("crisis", 5), ("crisis", 6), ("contact", 7),
        ("contact", 8), ("long", 11), ("same", 3),
    ]


# ---------------------------------------------------------------- from_bitext


def test_bitext_has_the_columns_of_the_shipped_dataset():
    filled, _ = placeholders.fill(support(), hub_chats.BITEXT_VALUES)
    chats, _ = hub_chats.from_bitext(filled, system="s")
    shipped = data.load_chats("customer_support_vi")["train"]
    assert set(chats.column_names) == {*shipped.column_names, "group"}
    assert chats.features["messages"] == shipped.features["messages"]
    row = chats[0]
    assert (row["intent"], row["category"], row["language"]) == ("cancel_order", "order", "en")
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    slots = {name: value for name, value in row["slots"].items() if value}
    assert list(slots) == ["Order Number"] and slots["Order Number"] in spoken(row)[1]


def test_the_same_question_shares_a_group_whatever_was_filled_in():
    filled, _ = placeholders.fill(support(), hub_chats.BITEXT_VALUES)
    chats, _ = hub_chats.from_bitext(filled, system="s")
    one, two, three, _ = chats
    assert spoken(one)[1].casefold() != spoken(two)[1].casefold()
    assert one["group"] == two["group"] == "q00001" and three["group"] == "q00003"


def test_rows_that_nobody_filled_are_taken_out():
    chats, report = hub_chats.from_bitext(support(), system="s")
    assert [row["id"] for row in chats] == ["create_account-00005"] and "slots" not in chats.column_names
    gone = report.removed[report.removed["step"] == "placeholder"]
    assert gone["line"].tolist() == [1, 2, 3, 4]
    assert gone["reason"].tolist()[0] == "instruction: holds the placeholder '{{Order Number}}'"
    language.use("vi")
    assert report.removed["reason"].tolist()[1] == "instruction: còn placeholder '{{Order Number}}'"


def test_the_shop_of_the_values_cannot_be_reached_by_anybody():
    constants = {name: value for name, value in hub_chats.BITEXT_VALUES.items() if isinstance(value, str)}
    assert re.fullmatch(r"555-01\d\d", constants["Customer Support Phone Number"])
    for name in ("Website URL", "Customer Support Email"):
        assert constants[name].endswith(".example")


# ---------------------------------------------------------------- from_counseling


@pytest.mark.parametrize("said", [
    "I want to KILL myself", "thoughts of suicide", "I feel suicidal", "he is self-harming", "self‑harm",
    "I don’t want to live", "I do not want to live", "Maybe I should end  my\nlife.", "I took an overdose",
])  # fmt: skip
def test_crises_are_seen(said):
    assert hub_chats.crisis_in(said)


@pytest.mark.parametrize("said", [
    "I am sad and cannot sleep.", "charming, harmony, skill", "It was a white hitchhiker", "I want to live",
])  # fmt: skip
def test_parts_of_words_are_no_crisis(said):
    assert hub_chats.crisis_in(said) == []


def test_every_english_crisis_message_of_the_shipped_dataset_is_seen_and_no_other():
    for rows in data.load_chats("counseling_vi").values():
        for row in rows:
            if row["language"] == "en":
                assert bool(hub_chats.crisis_in(spoken(row)[1])) == row["crisis"], spoken(row)[1]


def test_the_list_has_the_words_of_the_shipped_one():
    lines = (dataset_dir("counseling_vi") / "crisis_words.jsonl").read_text(encoding="utf-8").splitlines()
    (listed,) = (row["words"] for row in map(json.loads, lines) if row["language"] == "en")
    for word in listed:
        assert hub_chats.crisis_in(f"Well, {word.upper()}!") != []


@pytest.mark.parametrize("answer", [
    "Call 1-555-010-0100.", "Call 555 010 0100", "Text 988 today", "Ring 555-0100", "me@there.org",
    "see https://x.y", "see healing.com",
])  # fmt: skip
def test_answers_that_send_people_somewhere_go(answer):
    fine = "Go for a walk in 2010-2015.Then 1000 more."
    rows = counseling([("I am lonely.", answer), ("I am lonely.", fine)])
    chats, report = hub_chats.from_counseling(rows, system="s")
    assert len(chats) == 1 and report.removed["line"].tolist() == [1]
    assert report.removed["reason"][0] == "Response: a phone number, an e-mail or a link"
    swapped, _ = hub_chats.from_counseling(counseling([(answer, "That is a good number.")]), system="s")
    assert len(swapped) == 1  # a question may hold one


def test_reasons_name_word_and_length():
    _, report = hub_chats.from_counseling(counseling(), system="s")
    reasons = dict(zip(report.removed["line"], report.removed["reason"], strict=True))
    assert reasons[4] == "Context: has the word 'suicidal'" and reasons[5] == "Response: has the word 'harm'"
    assert reasons[11] == "605 words long" and reasons[3] == "the same as line 2"
    _, report = hub_chats.from_counseling(counseling(), system="s", max_words=605)
    assert 11 not in report.removed["line"].tolist()
    assert dict((step, gone) for step, _, _, gone in report.counts) == {
        "empty": 2, "crisis": 3, "contact": 2, "long": 0, "same": 1
    }


def test_texts_are_not_rewritten():
    """The licence of the counselling data allows leaving rows out, not changing them."""
    odd = ("  What  now?\n", "Breathing out &amp; <b>in</b>.\n\n Wait. ")
    chats, _ = hub_chats.from_counseling(counseling([odd]), system="s")
    assert spoken(chats[0])[1:] == list(odd)


def test_conversations_can_be_encoded():
    from transformers import AutoTokenizer

    chats, _ = hub_chats.from_counseling(counseling(), system="Be kind.")
    encoded = chat.encode(chats, AutoTokenizer.from_pretrained(twin_dir("llama32")), max_length=400)
    assert len(encoded) == len(chats)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("convert", [hub_chats.from_bitext, hub_chats.from_counseling])
def test_wrong_input_is_refused(convert):
    rows = support() if convert is hub_chats.from_bitext else counseling()
    first = "instruction" if convert is hub_chats.from_bitext else "Context"
    with pytest.raises(LessonError, match=f"The column '{first}' is missing; the data has: question"):
        convert(Dataset.from_dict({"question": ["a"]}), system="s")
    with pytest.raises(LessonError, match="The system message is blank"):
        convert(rows, system=" ")
    with pytest.raises(LessonError, match="Nothing is left of 1 rows"):
        convert(Dataset.from_list([{**rows[0], first: ""}]), system="s")


def test_max_words_is_checked():
    with pytest.raises(LessonError, match="max_words=0: give at least 1"):
        hub_chats.from_counseling(counseling(), system="s", max_words=0)


def test_the_pins_are_commits():
    for name, commit in (hub_chats.BITEXT, hub_chats.COUNSELING):
        assert re.fullmatch(r"[\w-]+/[\w.-]+", name) and re.fullmatch(r"[0-9a-f]{40}", commit)
