"""The shipped dataset customer_support_vi: what its card promises, and that its script makes its files."""

import json
import re
import unicodedata
from collections import Counter, defaultdict

import pytest

from lessonlib.runtime._paths import dataset_dir

FOLDER = dataset_dir("customer_support_vi")
SPLITS = {"train": 256, "validation": 32, "test": 64, "unseen_intents": 20}
COLUMNS = ["id", "intent", "category", "language", "messages", "slots"]
SLOTS = ["order", "product", "city", "date", "amount"]
INTENTS = {
    "check_order", "cancel_order", "change_address", "delivery_time", "store_hours", "return_item",
    "damaged_item", "warranty", "refund_status", "payment_failed", "invoice", "voucher", "reset_password",
    "talk_to_human", "other", "thanks",
}  # fmt: skip
UNSEEN = {"gift_wrapping", "installation"}
VIETNAMESE = re.compile("[ăâđêôơưạ-ỹàáâãèéêìíòóôõùúý]")


def read(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def key(text):
    """The text without case, punctuation and blanks."""
    return re.sub(r"[\W_]+", "", text.casefold())


def said(row, role):
    return [message["content"] for message in row["messages"] if message["role"] == role]


def masked(row, text):
    """The text with the row's slot values taken out: "order #48213" -> "order <order>"."""
    for slot, value in row["slots"].items():
        if value:
            text = text.replace(value, f"<{slot}>")
    return text


def words(text):
    return re.findall(r"[\w#/<>]+", text.casefold())


def contains(text, value):
    """Whether the value stands in the text as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(value.casefold())}(?!\w)", text.casefold()) is not None


@pytest.fixture(scope="module")
def make(load_make):
    return load_make("customer_support_vi")


@pytest.fixture(scope="module")
def splits():
    return {name: read(name) for name in SPLITS}


@pytest.fixture(scope="module")
def everything(splits):
    return [row for rows in splits.values() for row in rows]


def test_shipped_files_are_what_the_script_makes(make, tmp_path):
    make.main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(made) == sorted(f"{name}.jsonl" for name in SPLITS)
    for name, content in made.items():
        assert content == (FOLDER / name).read_bytes(), f"{name}: run data/customer_support_vi/make.py"


def test_splits_have_their_counts_and_columns(splits):
    assert {name: len(rows) for name, rows in splits.items()} == SPLITS
    for rows in splits.values():
        assert all(list(row) == COLUMNS and list(row["slots"]) == SLOTS for row in rows)
        assert all(isinstance(value, str) for row in rows for value in row["slots"].values())


def test_datasets_loads_the_folder_with_one_schema(tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(FOLDER), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in loaded.items()} == SPLITS
    assert loaded["test"][0] == read("test")[0]
    assert sorted(loaded["train"].features["slots"]) == sorted(SLOTS)


def test_every_trained_intent_has_eleven_wordings_and_each_unseen_one_five(make):
    intents = {row["intent"]: row for row in make.table("intents")}
    assert set(intents) == INTENTS | UNSEEN
    for name, intent in intents.items():
        shares = Counter(wording["split"] for wording in intent["wordings"])
        trained = {"train": 8, "validation": 1, "test": 2}
        assert shares == ({"unseen_intents": 5} if name in UNSEEN else trained), name
        for language in ("vi", "en"):
            assert len({key(wording[language]) for wording in intent["wordings"]}) == len(intent["wordings"])


def test_splits_hold_the_intents_they_should(splits):
    for name in ("train", "validation", "test"):
        counts = Counter((row["intent"], row["language"]) for row in splits[name])
        assert counts == {(each, lang): SPLITS[name] // 32 for each in INTENTS for lang in ("vi", "en")}
    counts = Counter((row["intent"], row["language"]) for row in splits["unseen_intents"])
    assert counts == {(each, language): 5 for each in UNSEEN for language in ("vi", "en")}


def test_conversations_are_system_then_user_and_assistant_in_turn(everything):
    for row in everything:
        roles = [message["role"] for message in row["messages"]]
        assert roles in (["system", "user", "assistant"], ["system", *["user", "assistant"] * 2])
        assert all(list(message) == ["role", "content"] for message in row["messages"])
    assert len({(row["language"], *said(row, "system")) for row in everything}) == 2


def test_about_a_fifth_has_two_exchanges_and_every_trained_split_has_some(splits, everything):
    two = {name: sum(len(row["messages"]) == 5 for row in rows) for name, rows in splits.items()}
    assert 0.15 < sum(two.values()) / len(everything) < 0.25
    assert min(two[name] for name in ("train", "validation", "test")) >= 2


def test_texts_are_clean_and_in_nfc(everything):
    for row in everything:
        for message in row["messages"]:
            text = message["content"]
            assert unicodedata.is_normalized("NFC", text) and text == " ".join(text.split())
            assert text[-1] in ".?!" and not re.search("[\u00ad\u200b-\u200f\ufeff]", text)


def test_vietnamese_has_its_marks_and_english_none(everything):
    for row in everything:
        for message in row["messages"]:
            if row["language"] == "vi":
                plain = masked(row, message["content"])
                number_alone = message["role"] == "user" and len(words(plain)) <= 4
                assert VIETNAMESE.search(plain.casefold()) or number_alone, plain
            else:
                assert message["content"].isascii(), message["content"]


def test_no_placeholder_is_left_anywhere(splits):
    for name in SPLITS:
        for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            texts = [message["content"] for message in json.loads(line)["messages"]]
            assert not any(re.search(r"[{}<>\[\]]|\bNone\b|%s", text) for text in texts), texts
            assert "{{" not in line.replace('{"', "") and "}}" not in line.removesuffix("}}")
    assert "{{" not in (FOLDER / "intents.jsonl").read_text(encoding="utf-8").replace('{"', "")


def test_no_user_message_is_there_twice(everything):
    seen = Counter(key(text) for row in everything for text in said(row, "user"))
    assert [text for text, count in seen.items() if count > 1] == []


def test_wordings_of_test_and_validation_were_not_trained_with_their_intent(splits):
    trained = defaultdict(set)
    for row in splits["train"]:
        trained[row["intent"], row["language"]] |= {key(masked(row, text)) for text in said(row, "user")}
    for name in ("validation", "test"):
        for row in splits[name]:
            for text in said(row, "user"):
                assert key(masked(row, text)) not in trained[row["intent"], row["language"]], text


def test_held_out_wordings_have_no_word_that_was_not_trained(splits):
    # a new pairing of known words is asked for, not new words; slot values are new on purpose
    known = defaultdict(set)
    for row in splits["train"]:
        known[row["language"]] |= {word for text in said(row, "user") for word in words(masked(row, text))}
    for name in ("validation", "test"):
        for row in splits[name]:
            for text in said(row, "user"):
                assert set(words(masked(row, text))) <= known[row["language"]], text


def test_slot_values_stand_in_the_users_words_and_are_copied_into_a_reply_after_them(everything):
    filled = 0
    for row in everything:
        for value in filter(None, row["slots"].values()):
            filled += 1
            roles = [each["role"] for each in row["messages"] if contains(each["content"], value)]
            assert roles == ["user", "assistant"], (row["id"], value)
    assert filled > 200


def test_numbers_of_users_and_other_slot_values_are_all_in_slots(splits):
    values = {row["slot"]: set() for row in read("values")}
    for row in read("values"):
        values[row["slot"]] |= {row["vi"], row["en"]}
    for row in (row for rows in splits.values() for row in rows):
        for text in said(row, "user"):
            assert not re.search(r"\d", masked(row, text)), text
            for slot, names in values.items():
                left = masked(row, text)
                assert not any(contains(left, name) for name in names - {row["slots"][slot]}), text


def test_slots_have_their_form(everything):
    forms = {
        ("order", "vi"): r"#[1-9]\d{4}", ("order", "en"): r"#[1-9]\d{4}",
        ("date", "vi"): r"\d{1,2}/\d{1,2}", ("date", "en"): r"\d{1,2} [A-Z][a-z]+",
        ("amount", "vi"): r"\d{3}\.000 đồng", ("amount", "en"): r"\d{3},000 dong",
    }  # fmt: skip
    names = {(row["slot"], row[language], language) for row in read("values") for language in ("vi", "en")}
    for row in everything:
        for slot, value in row["slots"].items():
            form = forms.get((slot, row["language"]))
            if form and value:
                assert re.fullmatch(form, value)
            elif value:
                assert (slot, value, row["language"]) in names


def test_slot_values_of_validation_and_test_are_nowhere_in_training(splits):
    trained = " | ".join(each["content"] for row in splits["train"] for each in row["messages"])
    for name in ("validation", "test"):
        values = {value for row in splits[name] for value in row["slots"].values() if value}
        assert values and not [value for value in values if contains(trained, value)]
    other = {value for row in splits["validation"] for value in row["slots"].values() if value}
    assert not other & {value for row in splits["test"] for value in row["slots"].values()}
    assert contains(trained, "Da Nang") and contains(trained, "bàn phím")  # the search finds what is there


def test_counterparts_are_complete_and_say_the_same(splits):
    same = {(row["slot"], row["vi"]): row["en"] for row in read("values")}
    for name, rows in splits.items():
        by_id = {row["id"]: row for row in rows}
        assert len(by_id) == len(rows) and all(row["id"].endswith(f"-{row['language']}") for row in rows)
        vi = [row for row in rows if row["language"] == "vi"]
        assert len(vi) * 2 == SPLITS[name]
        for row in vi:
            twin = by_id[row["id"].removesuffix("vi") + "en"]
            assert (row["intent"], row["category"]) == (twin["intent"], twin["category"])
            assert row["id"].startswith(row["intent"]) and len(row["messages"]) == len(twin["messages"])
            for slot in SLOTS:
                here, there = row["slots"][slot], twin["slots"][slot]
                if slot == "order":
                    assert here == there
                elif slot == "date" and here:
                    month = there.split()[1]
                    numbers = {"March": 3, "May": 5, "June": 6, "September": 9, "October": 10}
                    assert here == f"{there.split()[0]}/{numbers[month]}"
                elif slot == "amount":
                    assert re.sub(r"\D", "", here) == re.sub(r"\D", "", there)
                elif here:
                    assert there == same[slot, here]
                else:
                    assert not there


def test_each_intent_has_one_reply_of_its_own_in_each_language(everything):
    replies = defaultdict(set)
    for row in everything:
        replies[row["intent"], row["language"]].add(masked(row, said(row, "assistant")[-1]))
    assert all(len(each) == 1 for each in replies.values())
    owners = defaultdict(set)
    for (intent, language), (reply,) in replies.items():
        owners[language, reply].add(intent)
    shared = [intents for intents in owners.values() if len(intents) > 1]
    assert shared == [{"other", *UNSEEN}] * 2


def test_the_messages_before_a_reply_determine_it(everything):
    replies = defaultdict(set)
    for row in everything:
        for place, message in enumerate(row["messages"]):
            if message["role"] == "assistant":
                replies[json.dumps(row["messages"][:place])].add(message["content"])
    assert len(replies) > len(everything) and all(len(each) == 1 for each in replies.values())


def test_replies_have_8_to_16_words_and_vietnamese_ones_are_polite(everything):
    for row in everything:
        for reply in said(row, "assistant"):
            assert 8 <= len(reply.split()) <= 16, reply
            assert (reply.startswith("Dạ, ") and reply[-3:-1] == " ạ") == (row["language"] == "vi"), reply


def test_two_exchanges_ask_for_what_is_missing_or_end_with_thanks(make, splits):
    asked = {text for each in make.ASK.values() for text in each.values()}
    kinds = Counter()
    for name, rows in splits.items():
        for row in rows:
            first = said(row, "assistant")[0]
            if len(row["messages"]) == 3:
                assert first not in asked and row["intent"] != "thanks"
                continue
            assert (first in asked) != (row["intent"] == "thanks")
            kinds[name, first in asked] += 1
            if first in asked:
                assert masked(row, said(row, "user")[0]) == said(row, "user")[0]  # the value comes later
    assert kinds == {
        ("train", True): 32, ("train", False): 16, ("validation", False): 2,
        ("test", True): 16, ("test", False): 4,
    }  # fmt: skip


def nearest(row, rows):
    """The row of the same language that shares most words with what the user said (Jaccard), slots aside."""

    def bag(each):
        return {word for text in said(each, "user") for word in words(masked(each, text)) if "<" not in word}

    mine = bag(row)
    candidates = [each for each in rows if each["language"] == row["language"]]
    return max(candidates, key=lambda each: (len(mine & bag(each)) / len(mine | bag(each)), each["id"]))


def test_the_card_states_what_copying_the_most_similar_conversation_scores(splits):
    found = [(row, nearest(row, splits["train"])) for row in splits["test"]]
    intents = sum(row["intent"] == other["intent"] for row, other in found)
    exact = sum(said(row, "assistant")[-1] == said(other, "assistant")[-1] for row, other in found)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"the right intent for {intents} of the 64 test rows" in card
    assert f"the right reply, values included, for {exact}" in card
    plain = sum(masked(row, each) == each for row in splits["test"] for each in said(row, "assistant")[-1:])
    assert f"{64 - plain} of the 64 test replies hold a value" in card and f"at most {plain} right" in card


def test_the_card_states_the_counts(splits, everything):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, count in SPLITS.items():
        assert f"| {name}.jsonl | {count} |" in card
        assert f"- split: {name}\n        path: {name}.jsonl" in card
    assert f"| intents.jsonl | {len(read('intents'))} |" in card
    assert f"| values.jsonl | {len(read('values'))} |" in card
    two = sum(len(row["messages"]) == 5 for row in everything)
    assert f"{two} of the {len(everything)} conversations have two exchanges" in card
    by_intent = defaultdict(set)
    for row in everything:
        by_intent[row["category"]].add(row["intent"])
    for category, intents in by_intent.items():
        assert re.search(rf"^\| {category} \| (.*) \|$", card, re.M)[1].split(", ") == [
            row["intent"] for row in read("intents") if row["intent"] in intents
        ]
    assert "{{Order Number}}" in card and "license: cc-by-4.0" in card
