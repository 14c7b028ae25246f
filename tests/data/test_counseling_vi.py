"""The shipped dataset counseling_vi: what its card promises, above all how its replies treat a crisis."""

import json
import re
import unicodedata
from collections import Counter, defaultdict

import pytest

from lessonlib.runtime._paths import dataset_dir

FOLDER = dataset_dir("counseling_vi")
SPLITS = {"train": 166, "validation": 28, "test": 58}
COLUMNS = ["id", "topic", "language", "crisis", "messages"]
TOPICS = {
    "exam_stress", "sleep", "loneliness", "parents", "job_loss", "breakup", "self_esteem", "burnout",
    "new_city", "grief", "social_anxiety", "money",
}  # fmt: skip
# Which of Vietnam's national numbers fit: 115 ambulance, 113 police, 111 child protection.
NUMBERS = {
    "danger_to_self": {"115"},
    "danger_to_others": {"113"},
    "violence_at_home": {"113"},
    "child_in_danger": {"111", "113"},
    "medical_emergency": {"115"},
}
NOW = {"vi": "được giúp ngay bây giờ", "en": "help right now"}
NEAR = {"vi": r"nói với một người (lớn )?ở gần bạn\.$", "en": r"talk to (somebody|an adult) near you\.$"}
# A diagnosis, a medicine, a promise.
NEVER = re.compile(
    r"trầm cảm|rối loạn|tâm thần|bệnh|thuốc|liều|hứa|chắc chắn|sẽ ổn|sẽ khỏi|sẽ qua|đừng lo"
    r"|depress|disorder|anxiety|trauma|\bill\b|illness|medic|pill|drug|dose|promise|surely|certain|guarantee"
    r"|will be|will pass|don't worry|do not worry"
)
# A way of doing harm. Such words have no place in a user's message either.
DETAILS = re.compile(r"dao|thuốc|súng|cầu|lầu|dây|máu|chết|knife|pill|gun|bridge|roof|rope|blood|dead|die\b")


def read(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def key(text):
    """The text without case, punctuation and blanks."""
    return re.sub(r"[\W_]+", "", text.casefold())


def user(row):
    return row["messages"][1]["content"]


def reply(row):
    return row["messages"][2]["content"]


def words(text):
    return re.findall(r"\w+", text.casefold())


def card():
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def crisis_words_in(text, language):
    (listed,) = (row["words"] for row in read("crisis_words") if row["language"] == language)
    return [each for each in listed if f" {each} " in f" {' '.join(words(text))} "]


@pytest.fixture(scope="module")
def make(load_make):
    return load_make("counseling_vi")


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
        assert content == (FOLDER / name).read_bytes(), f"{name}: run data/counseling_vi/make.py"


def test_splits_have_their_counts_and_columns(splits):
    assert {name: len(rows) for name, rows in splits.items()} == SPLITS
    for rows in splits.values():
        assert all(list(row) == COLUMNS and isinstance(row["crisis"], bool) for row in rows)


def test_datasets_loads_the_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(FOLDER), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in loaded.items()} == SPLITS
    assert loaded["test"][0] == read("test")[0] and loaded["train"].features["crisis"].dtype == "bool"


def test_conversations_are_system_user_assistant(everything):
    for row in everything:
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert all(list(message) == ["role", "content"] for message in row["messages"])
    systems = {(row["language"], row["messages"][0]["content"]) for row in everything}
    assert len(systems) == 2
    # the instruction itself names the numbers, so that a reply can copy them
    assert all(set(re.findall(r"\d+", text)) == {"111", "113", "115"} for _, text in systems)


def test_texts_are_clean_and_in_nfc(everything):
    for row in everything:
        for message in row["messages"]:
            text = message["content"]
            assert unicodedata.is_normalized("NFC", text) and text == " ".join(text.split())
            assert text.endswith(".") and not re.search("[\u00ad\u200b-\u200f\ufeff{}<>]", text)
            marks = re.search("[ăâđêôơưạ-ỹàáâãèéêìíòóôõùúý]", text.casefold())
            assert bool(marks) == (row["language"] == "vi") and (text.isascii() or marks)


def test_every_topic_is_in_every_split_and_every_crisis_is_trained_and_tested(splits):
    for name, rows in splits.items():
        for language in ("vi", "en"):
            own = [row for row in rows if row["language"] == language]
            assert {row["topic"] for row in own if not row["crisis"]} == TOPICS, name
            crises = {row["topic"] for row in own if row["crisis"]}
            assert crises == set(NUMBERS) if name != "validation" else len(crises) == 2


def test_crisis_rows_are_about_thirty_and_in_every_split_in_both_languages(splits):
    counts = {
        (name, language): sum(row["crisis"] for row in rows if row["language"] == language)
        for name, rows in splits.items()
        for language in ("vi", "en")
    }
    assert min(counts.values()) >= 2 and sum(counts.values()) == 36


def test_the_flag_agrees_with_topic_and_crisis_words(everything):
    for row in everything:
        assert row["crisis"] == (row["topic"] in NUMBERS)
        assert bool(crisis_words_in(user(row), row["language"])) == row["crisis"], user(row)


def test_the_rule_of_the_script_finds_whole_words_in_any_case(make, everything):
    for row in everything:
        found = make.alarming(user(row), row["language"])
        assert found == crisis_words_in(user(row), row["language"])
    assert make.alarming("Tôi KHÔNG MUỐN SỐNG nữa", "vi") == ["không muốn sống"]
    assert make.alarming("He hit me.", "en") == ["hit"]
    assert make.alarming("I like white rice and a good chart.", "en") == []  # neither "hit" nor "harm"


def test_the_crisis_words_cover_what_must_never_pass_unseen():
    listed = {row["language"]: row["words"] for row in read("crisis_words")}
    assert {"tự tử", "tự sát", "muốn chết", "không muốn sống", "đánh", "khó thở"} <= set(listed["vi"])
    assert {"suicide", "want to die", "kill", "hit", "breathe"} <= set(listed["en"])
    for each in (word for words in listed.values() for word in words):
        assert each == each.casefold() and unicodedata.is_normalized("NFC", each) and f"`{each}`" in card()


def test_the_script_refuses_a_crisis_message_without_the_flag(make, monkeypatch):
    cases = make.table("cases")
    flawed = [dict(case, crisis=False) for case in cases]
    words_of = make.table
    monkeypatch.setattr(make, "table", lambda name: flawed if name == "cases" else words_of(name))
    with pytest.raises(AssertionError, match="flag False, but crisis words"):
        make.splits()


def test_a_crisis_reply_says_help_now_names_fitting_numbers_and_somebody_near(everything):
    crises = [row for row in everything if row["crisis"]]
    assert len(crises) == 36
    for row in crises:
        text, language = reply(row), row["language"]
        assert NOW[language] in text and re.search(NEAR[language], text), text
        assert set(re.findall(r"\d+", text)) == NUMBERS[row["topic"]], text
        assert re.search(r"gọi 11[135]" if language == "vi" else r"[Cc]all 11[135]", text)


def test_no_other_number_occurs_in_a_reply_or_from_a_user(everything):
    for row in everything:
        assert set(re.findall(r"\d+", reply(row))) <= ({"111", "113", "115"} if row["crisis"] else set())
        assert not re.search(r"\d", user(row))


def test_replies_are_two_short_sentences_without_diagnosis_medicine_or_promise(everything):
    for row in everything:
        sentences = re.split(r"(?<=\.) ", reply(row))
        assert len(sentences) == 2 and all(3 <= len(each.split()) <= 20 for each in sentences), reply(row)
        assert not NEVER.search(reply(row).casefold()), reply(row)
    assert NEVER.search("mọi chuyện sẽ ổn") and NEVER.search("it will be fine")


def test_messages_name_no_method(everything):
    for row in everything:
        text = " ".join(message["content"].casefold() for message in row["messages"])
        assert not any(DETAILS.fullmatch(word) for word in words(text)), text
        assert not row["crisis"] or len(user(row).split()) <= 16


def test_no_user_message_is_there_twice(everything):
    assert max(Counter(key(user(row)) for row in everything).values()) == 1


def test_held_out_wordings_have_no_word_that_was_not_trained(splits):
    known = defaultdict(set)
    for row in splits["train"]:
        known[row["language"]] |= set(words(user(row)))
    for name in ("validation", "test"):
        for row in splits[name]:
            assert set(words(user(row))) <= known[row["language"]], user(row)


def test_each_case_has_one_reply_of_its_own_and_is_trained(splits, everything):
    replies, owners, trained = defaultdict(set), defaultdict(set), set()
    for row in everything:
        case = row["id"].split("-")[0]
        replies[case, row["language"]].add(reply(row))
        owners[reply(row)].add((case, row["topic"]))
    for row in splits["train"]:
        trained.add((row["id"].split("-")[0], row["language"]))
    assert len(replies) == 2 * len(read("cases")) == 58 and set(replies) == trained
    assert all(len(each) == 1 for each in [*replies.values(), *owners.values()])
    assert {row["id"].split("-")[0] for row in splits["test"]} == {case for case, _ in trained}


def test_counterparts_are_complete_and_in_the_same_split(splits):
    for rows in splits.values():
        by_id = {row["id"]: row for row in rows}
        assert len(by_id) == len(rows)
        for row in rows:
            twin = by_id[row["id"][:-2] + {"vi": "en", "en": "vi"}[row["language"]]]
            assert row["id"].endswith(row["language"]) and twin["language"] != row["language"]
            assert (row["topic"], row["crisis"]) == (twin["topic"], twin["crisis"])
            assert re.findall(r"\d+", reply(row)) == re.findall(r"\d+", reply(twin))


def test_rows_say_what_the_table_says(splits):
    for case in read("cases"):
        assert case["crisis"] == (case["topic"] in NUMBERS)
        for number, wording in enumerate(case["wordings"], start=1):
            for language in ("vi", "en"):
                (row,) = (
                    row
                    for row in splits[wording["split"]]
                    if row["id"] == f"{case['case']}-{number}-{language}"
                )
                assert (user(row), reply(row)) == (wording[language], case["reply"][language])
                assert (row["topic"], row["crisis"]) == (case["topic"], case["crisis"])


def test_the_card_states_the_counts(splits, everything):
    text = card()
    for name, count in SPLITS.items():
        crises = sum(row["crisis"] for row in splits[name])
        assert f"| {name}.jsonl | {count} | {crises} |" in text
        assert f"- split: {name}\n        path: {name}.jsonl" in text
    assert f"| cases.jsonl | {len(read('cases'))} |" in text
    counts = Counter(row["topic"] for row in everything)
    for topic, count in counts.items():
        assert re.search(rf"^\| {topic} \| .* \| {count} \|$", text, re.M), topic


def test_the_card_opens_with_the_safety_note_in_both_languages():
    body = card().split("---\n", 2)[2]
    assert body.index("An toàn") < body.index("Safety") < body.index("## ")
    for language in (body[body.index("An toàn") : body.index("Safety")], body[body.index("Safety") :]):
        assert set(re.findall(r"\b11\d\b", language.split("## ")[0])) == {"111", "113", "115"}
    assert "không phải" in body and "not a counselling tool" in body and "rules" in body
