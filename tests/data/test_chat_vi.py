"""The shipped dataset chat_vi: what its card promises, and that its files are what its script makes."""

import json
import re
import unicodedata
from collections import Counter, defaultdict

import pytest
import yaml

from lessonlib.runtime._paths import dataset_dir

FOLDER = dataset_dir("chat_vi")
SPLITS = {"train": 216, "validation": 20, "test": 40, "unseen_topics": 72}
LEARNT = 18  # topics
ABOUT_TOPICS = ("define", "tip", "follow_up", "switch", "language", "detail")
KINDS = (*ABOUT_TOPICS, "thanks", "off_topic")
TWO_TURNS = {"follow_up", "switch", "thanks"}
MARKS = re.compile("[ăâđêôơưàáãèéìíòóõùúýĩũạ-ỹ]")  # letters that Vietnamese has and English has not
OTHER = {"vi": "en", "en": "vi"}
ROLES = ("assistant", "user")


def read(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(row, *roles):
    """What is said in a conversation, by these roles or by all."""
    return tuple(each["content"] for each in row["messages"] if not roles or each["role"] in roles)


def last_answer(row):
    return contents(row, "assistant")[-1]


def place(row):
    return row["topic"], row["language"], row["kind"]


@pytest.fixture(scope="module")
def make(load_make):
    return load_make("chat_vi")


@pytest.fixture(scope="module")
def topics():
    return {topic["id"]: topic for topic in read("topics")}


@pytest.fixture(scope="module")
def splits():
    return {name: read(name) for name in SPLITS}


@pytest.fixture(scope="module")
def everything(splits):
    return [row for rows in splits.values() for row in rows]


@pytest.fixture(scope="module")
def card():
    return (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def frame(topics):
    """(question, language) -> the question without its term, and the id of the term's topic ("" if it has
    none): "LoRA là gì?" -> ("{} là gì?", "t01")."""
    terms = {
        language: sorted(
            ((topic[language]["term"].casefold(), name) for name, topic in topics.items()),
            key=lambda each: -len(each[0]),  # "an epoch" before "epoch"
        )
        for language in OTHER
    }

    def of(question, language):
        text = question.casefold()
        for term, name in terms[language]:
            found, count = re.subn(rf"(?<!\w){re.escape(term)}(?!\w)", "{}", text, count=1)
            if count:
                return found, name
        return text, ""

    return of


def frames(row, frame):
    """(frame, topic) of each question; one that names no topic is about the row's."""
    found = [frame(question, row["language"]) for question in contents(row, "user")]
    return [(text, topic or row["topic"]) for text, topic in found]


# --- the files


def test_shipped_files_are_what_the_script_makes(make, tmp_path):
    make.main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(made) == sorted(f"{name}.jsonl" for name in SPLITS)
    for name, content in made.items():
        assert content == (FOLDER / name).read_bytes(), f"{name}: run data/chat_vi/make.py"


def test_splits_have_their_counts_and_columns(splits, everything):
    assert {name: len(rows) for name, rows in splits.items()} == SPLITS
    assert len(everything) == 348 >= 300
    for row in everything:
        assert list(row) == ["id", "kind", "language", "topic", "messages"]
        assert row["language"] in OTHER and row["kind"] in KINDS
        assert all(list(message) == ["role", "content"] for message in row["messages"])


def test_ids_are_unique_and_name_the_split(splits):
    for name, rows in splits.items():
        assert [row["id"] for row in rows] == [f"{name}-{n:03d}" for n in range(1, len(rows) + 1)]


def test_topics_are_30_with_terms_and_sentences_of_their_own(topics):
    assert list(topics) == [f"t{number:02d}" for number in range(1, 31)]
    for language in OTHER:
        words = [topic[language] for topic in topics.values()]
        assert len({each["term"].casefold() for each in words}) == 30
        sentences = [each[part] for each in words for part in ("define", "tip")]
        assert len(set(sentences)) == 60 and all(each[-1] == "." for each in sentences)
        for each in sentences:
            assert bool(MARKS.search(each.casefold())) == (language == "vi"), each


# --- each conversation


def test_texts_are_clean_and_in_nfc(everything):
    for text in (text for row in everything for text in contents(row)):
        assert text and text == " ".join(text.split())  # no blank first, last or twice, no tabs, no line ends
        assert unicodedata.is_normalized("NFC", text)
        assert not any(unicodedata.category(sign) in ("Cc", "Cf") for sign in text)
        assert text[0] == text[0].upper() and text[-1] in ".?!"
        assert len(text) <= 130


def test_system_stands_first_or_nowhere_then_user_and_assistant_take_turns(everything):
    for row in everything:
        roles = [message["role"] for message in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (2 if row["kind"] in TWO_TURNS else 1), row["id"]


def test_enough_conversations_have_two_turns_and_a_system_message(splits):
    for name, rows in splits.items():
        two_turns = sum(len(contents(row, "user")) == 2 for row in rows) / len(rows)
        system = sum(bool(contents(row, "system")) for row in rows) / len(rows)
        assert 0.25 <= two_turns <= 0.5 and 0.5 <= system <= 0.75, name
        assert Counter(row["language"] for row in rows) == {"vi": len(rows) / 2, "en": len(rows) / 2}


def test_answers_are_those_of_the_topic(topics, everything):
    for row in everything:
        if row["kind"] == "off_topic":
            assert row["topic"] == ""
            continue
        words, other = topics[row["topic"]][row["language"]], topics[row["topic"]][OTHER[row["language"]]]
        answers = contents(row, "assistant")
        match row["kind"]:
            case "define" | "tip":
                assert answers == (words[row["kind"]],)
            case "follow_up":
                assert answers == (words["define"], words["tip"])
            case "switch":
                others = {
                    topic[row["language"]]["define"] for name, topic in topics.items() if name != row["topic"]
                }
                assert answers[1] == words["define"] and answers[0] in others
            case "language":
                assert answers == (other["define"],)
            case "detail":
                assert answers == (f"{words['define']} {words['tip']}",)
            case "thanks":
                closing = {
                    "vi": "Không có gì, chúc bạn học tốt!", "en": "You are welcome, enjoy the course!"
                }
                assert answers == (words["tip"], closing[row["language"]])


def test_questions_name_the_topic_unless_the_turn_before_did(everything, frame):
    for row in everything:
        named = [frame(question, row["language"])[1] for question in contents(row, "user")]
        match row["kind"]:
            case "follow_up" | "thanks":
                assert named == [row["topic"], ""], row["id"]
            case "switch":
                assert named[1] == row["topic"] and named[0] not in ("", row["topic"]), row["id"]
            case _:
                assert named == [row["topic"]], row["id"]


def test_language_is_answered_in_the_language_that_the_system_message_asks_for(everything):
    rows = [row for row in everything if row["kind"] == "language"]
    assert Counter(row["language"] for row in rows) == {"vi": 30, "en": 30}
    for row in rows:
        (order,) = contents(row, "system")
        assert ("tiếng Anh" if row["language"] == "vi" else "Vietnamese") in order
        assert bool(MARKS.search(last_answer(row).casefold())) == (row["language"] == "en"), row["id"]


def test_everything_else_is_said_in_the_language_of_the_row(everything):
    for row in everything:
        roles = ("system", "user") if row["kind"] == "language" else ("system", "user", "assistant")
        for text in contents(row, *roles):
            assert bool(MARKS.search(text.casefold())) == (row["language"] == "vi"), text


# --- the splits


def test_no_conversation_is_in_two_splits_or_twice_in_one(everything):
    for roles in ((), ("user", "assistant")):  # nor with another system message only
        seen = Counter(contents(row, *roles) for row in everything)
        assert max(seen.values()) == 1


def test_a_test_topic_is_trained_in_other_kinds_and_not_in_the_tested_one(splits):
    trained = {place(row) for row in splits["train"]}
    validated = {place(row) for row in splits["validation"] if row["topic"]}
    for name in ("test", "validation"):
        rows = [row for row in splits[name] if row["kind"] != "off_topic"]
        assert len({place(row) for row in rows}) == len(rows) == {"test": 36, "validation": 18}[name]
        for row in rows:
            topic, language, kind = place(row)
            kinds = {each for each in ABOUT_TOPICS if (topic, language, each) in trained}
            assert kind not in kinds and len(kinds) >= 4, row["id"]
    assert not validated & {place(row) for row in splits["test"]}


def test_every_kind_is_tested_for_three_topics_in_each_language(splits):
    tested = Counter((row["kind"], row["language"]) for row in splits["test"])
    on_topic = {(kind, language): 3 for kind in ABOUT_TOPICS for language in OTHER}
    assert tested == on_topic | {("off_topic", "vi"): 2, ("off_topic", "en"): 2}


def test_both_sentences_of_a_learnt_topic_are_trained_in_both_languages(topics, splits):
    trained = {text for row in splits["train"] for text in contents(row, "assistant")}
    for topic in list(topics.values())[:LEARNT]:
        for language in OTHER:
            sentences = topic[language]["define"], topic[language]["tip"]
            # the advice alone, or at least at the end of an answer in two sentences
            assert sentences[0] in trained and any(text.endswith(sentences[1]) for text in trained)


def test_unseen_topics_are_twelve_of_which_nothing_is_trained(topics, splits):
    unseen = {row["topic"] for row in splits["unseen_topics"]}
    assert unseen == set(list(topics)[LEARNT:]) and len(unseen) == 12
    assert Counter(map(place, splits["unseen_topics"])) == {
        (topic, language, kind): 1
        for topic in unseen for language in OTHER for kind in ("define", "follow_up", "language")
    }  # fmt: skip
    rest = [row for name in ("train", "validation", "test") for row in splits[name]]
    said, asked = ("\n".join(text for row in rest for text in contents(row, role)) for role in ROLES)
    for name in unseen:
        for words in (topics[name][language] for language in OTHER):
            assert words["define"] not in said and words["tip"] not in said
            assert not re.search(rf"(?<!\w){re.escape(words['term'].casefold())}(?!\w)", asked.casefold())
    assert not any(text in said for row in splits["unseen_topics"] for text in contents(row, "assistant"))
    assert topics["t18"]["vi"]["define"] in said and "lora" in asked.casefold()  # found where it is there


def test_a_frame_that_is_tested_is_trained_for_at_least_two_other_topics(splits, frame):
    trained = defaultdict(set)
    for row in splits["train"]:
        for text, topic in frames(row, frame):
            trained[text].add(topic)
    alone = {
        (row["id"], text)
        for name in ("validation", "test", "unseen_topics") for row in splits[name] if row["topic"]
        for text, topic in frames(row, frame) if len(trained[text] - {topic}) < 2
    }  # fmt: skip
    assert alone == set()


def test_a_system_message_that_is_tested_is_trained_for_at_least_two_other_topics(splits):
    trained = defaultdict(set)
    for row in splits["train"]:
        for text in contents(row, "system"):
            trained[text].add(row["topic"])
    assert len(trained) == 12
    for name in ("validation", "test", "unseen_topics"):
        for row in splits[name]:
            assert all(len(trained[text] - {row["topic"]}) >= 2 for text in contents(row, "system")), row


def test_off_topic_questions_are_new_in_each_split_and_have_one_answer_in_each_language(splits, everything):
    rows = [row for row in everything if row["kind"] == "off_topic"]
    assert len({contents(row, "user") for row in rows}) == len(rows) == 24
    for language in OTHER:
        assert len({last_answer(row) for row in rows if row["language"] == language}) == 1
    counts = {name: sum(row["kind"] == "off_topic" for row in split) for name, split in splits.items()}
    assert counts == {"train": 18, "validation": 2, "test": 4, "unseen_topics": 0}


# --- the card


def test_the_card_lists_the_four_splits_for_the_hub(card):
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "cc-by-4.0" and head["language"] == ["vi", "en"]
    assert head["task_categories"] == ["text-generation"]
    files = {each["split"]: each["path"] for each in head["configs"][0]["data_files"]}
    assert files == {name: f"{name}.jsonl" for name in SPLITS}


def test_the_card_states_the_counts(card, splits, everything):
    assert "| topics.jsonl | 30 |" in card and "348 hội thoại" in card
    for name, count in SPLITS.items():
        assert f"| {name}.jsonl | {count} |" in card
    for kind in KINDS:
        counts = [sum(row["kind"] == kind for row in rows) for rows in splits.values()]
        assert re.search(rf"^\| {kind} \|.*\| {' [|] '.join(map(str, counts))} \|$", card, re.MULTILINE), kind
    two_turns = sum(len(contents(row, "user")) == 2 for row in everything)
    system = sum(bool(contents(row, "system")) for row in everything)
    assert f"{system} of the 348 conversations have a system message, {two_turns} have two turns" in card
    assert "(174 rows each)" in card


def test_no_held_out_row_opens_a_longer_conversation_in_train(splits):
    """define and tip are also how longer conversations begin; under this seed none is given away."""

    def turns(row):
        return [each["content"] for each in row["messages"] if each["role"] != "system"]

    trained = {tuple(turns(row)[:2]) for row in splits["train"]}
    assert ("Em chưa hiểu loss.", "Loss đo mô hình bất ngờ đến đâu trước đáp án.") in trained
    for split in ("validation", "test"):
        held_out = [row for row in splits[split] if row["topic"]]
        assert not [row["id"] for row in held_out if tuple(turns(row)) in trained]
