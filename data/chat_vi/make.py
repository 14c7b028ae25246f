"""Make the conversations from topics.jsonl: `python data/chat_vi/make.py [folder]`.

Knows nothing of models. Standard library only: the same topics.jsonl and SEED give the same bytes on every
machine.
"""

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20986
LEARNT = 18  # the first 18 topics are trained, the other 12 are never seen in training
LANGUAGES = ("vi", "en")
# Conversations about one topic in one language. Of these six, one is tested, and for every other topic a
# second one validates; the rest is trained.
KINDS = ("define", "tip", "follow_up", "switch", "language", "detail")

Message = dict[str, str]
Row = dict[str, object]

SYSTEM = {
    "role": {
        "vi": (
            "Bạn là trợ giảng của khóa học fine-tuning.",
            "Bạn giúp học viên ôn bài. Trả lời trong một câu.",
        ),
        "en": (
            "You are the teaching assistant of a fine-tuning course.",
            "You help students revise. Answer in one sentence.",
        ),
    },
    # In the language of the question; it asks for the other one.
    "language": {
        "vi": ("Luôn trả lời bằng tiếng Anh.", "Học viên hỏi tiếng Việt, bạn trả lời bằng tiếng Anh."),
        "en": ("Always answer in Vietnamese.", "Students ask in English, you answer in Vietnamese."),
    },
    "detail": {
        "vi": ("Nêu định nghĩa, rồi thêm một lời khuyên.", "Trả lời hai câu: định nghĩa và lời khuyên."),
        "en": (
            "Give the definition, then a piece of advice.",
            "Answer in two sentences: definition and advice.",
        ),
    },
}
ASK = {
    "define": {
        "vi": (
            "{} là gì?", "Giải thích giúp em {}.", "{} nghĩa là gì ạ?", "Thế nào là {}?", "Em chưa hiểu {}.",
        ),
        "en": ("What is {}?", "Explain {} to me, please.", "What does {} mean?", "I don't understand {}."),
    },
    "tip": {
        "vi": ("Dùng {} cần lưu ý gì?", "Cho em lời khuyên về {}.", "Với {} nên nhớ điều gì?"),
        "en": ("What should I mind with {}?", "Any advice about {}?", "What is a good rule for {}?"),
    },
    # Which topic is meant stands in the turn before.
    "follow_up": {
        "vi": ("Vậy cần lưu ý gì?", "Có lời khuyên nào không ạ?", "Em nên nhớ điều gì?"),
        "en": ("What should I mind, then?", "Any advice?", "And a good rule for it?"),
    },
    "switch": {
        "vi": ("Còn {}?", "Thế còn {} thì sao?", "Vâng. Còn {} ạ?"),
        "en": ("And {}?", "What about {}?", "I see. And {}?"),
    },
}
THANKS = {
    "vi": (("Cảm ơn ạ!", "Em cảm ơn nhiều!", "Em hiểu rồi, cảm ơn."), "Không có gì, chúc bạn học tốt!"),
    "en": (("Thank you!", "Thanks a lot!", "I see, thanks."), "You are welcome, enjoy the course!"),
}
REFUSAL = {
    "vi": "Xin lỗi, tôi chỉ giúp được về fine-tuning.",
    "en": "Sorry, I can only help with fine-tuning.",
}
OFF_TOPIC = {
    "vi": (
        "Hôm nay trời có mưa không?", "Quán phở nào ngon?", "Chỉ em cách nấu bún bò.",
        "Đội nào thắng trận tối qua?", "Giá vàng hôm nay bao nhiêu?", "Kể một câu chuyện cười đi.",
        "Mấy giờ có xe đi Đà Lạt?", "Em nên mua áo màu gì?", "Cây xoài bao lâu thì ra quả?",
        "Phim nào đang chiếu ngoài rạp?", "Làm sao cho mèo hết cào ghế?", "Đặt giúp em một bàn hai người.",
    ),
    "en": (
        "Will it rain today?", "Which restaurant is good?", "How do I bake bread?",
        "Who won the match last night?", "What is the price of gold today?", "Tell me a joke.",
        "When does the next bus leave?", "Which shirt should I buy?", "When does a mango tree bear fruit?",
        "Which film is on tonight?", "How do I stop my cat scratching?", "Book me a table for two.",
    ),
}


def topics() -> list[dict]:
    """The topics in order: id, and for each language term, definition and advice."""
    return [json.loads(line) for line in (HERE / "topics.jsonl").read_text(encoding="utf-8").splitlines()]


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def conversation(rng: random.Random, kind: str, topic: dict, other: dict, language: str) -> list[Message]:
    """The messages of one conversation about `topic`; `other` is what a "switch" turns to."""
    words = topic[language]

    def ask(what: str, about: dict = words) -> Message:
        return said("user", capital(rng.choice(ASK[what][language]).format(about["term"])))

    def system(what: str) -> Message:
        return said("system", rng.choice(SYSTEM[what][language]))

    start = [system("role")] if rng.random() < 0.5 else []
    define, tip = said("assistant", words["define"]), said("assistant", words["tip"])
    if kind == "define":
        return [*start, ask("define"), define]
    if kind == "tip":
        return [*start, ask("tip"), tip]
    if kind == "follow_up":
        return [*start, ask("define"), define, ask("follow_up"), tip]
    if kind == "switch":
        there = other[language]
        return [*start, ask("define", there), said("assistant", there["define"]), ask("switch"), define]
    if kind == "language":
        translated = topic["en" if language == "vi" else "vi"]
        return [system("language"), ask("define"), said("assistant", translated["define"])]
    if kind == "detail":
        return [system("detail"), ask("define"), said("assistant", f"{words['define']} {words['tip']}")]
    thanks, answer = THANKS[language]  # kind == "thanks"
    return [*start, ask("tip"), tip, said("user", rng.choice(thanks)), said("assistant", answer)]


def splits() -> dict[str, list[Row]]:
    """The four splits; which kind of conversation is held out turns from topic to topic."""
    rng = random.Random(SEED)
    made: dict[str, list[Row]] = {"train": [], "validation": [], "test": [], "unseen_topics": []}
    everything = topics()

    def add(split: str, kind: str, language: str, topic: str, messages: list[Message]) -> None:
        row = {"id": "", "kind": kind, "language": language, "topic": topic, "messages": messages}
        made[split].append(row)

    for number, topic in enumerate(everything):
        learnt = number < LEARNT
        others = [each for each in everything[:LEARNT] if each is not topic]
        for shift, language in enumerate(LANGUAGES):
            tested = KINDS[(number + 3 * shift) % 6]
            validated = KINDS[(number + 3 * shift + 1 + number // 6) % 6] if (number + shift) % 2 else ""
            for kind in KINDS if learnt else ("define", "follow_up", "language"):
                if not learnt:
                    split = "unseen_topics"
                else:
                    split = {tested: "test", validated: "validation"}.get(kind, "train")
                messages = conversation(rng, kind, topic, rng.choice(others), language)
                add(split, kind, language, topic["id"], messages)
        for language in LANGUAGES if learnt else ():
            add("train", "thanks", language, topic["id"], conversation(rng, "thanks", topic, topic, language))
    for language in LANGUAGES:
        for number, question in enumerate(OFF_TOPIC[language]):
            system = [said("system", SYSTEM["role"][language][0])] if number % 2 else []
            messages = [*system, said("user", question), said("assistant", REFUSAL[language])]
            split = {10: "validation", 11: "test"}.get(number, "test" if number == 9 else "train")
            add(split, "off_topic", language, "", messages)
    for name, rows in made.items():
        rng.shuffle(rows)
        for number, row in enumerate(rows, start=1):
            row["id"] = f"{name}-{number:03d}"
    return made


def main(folder: Path) -> None:
    for name, rows in splits().items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
