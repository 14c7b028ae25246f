"""Make the splits and the raw collection from facts.jsonl: `python data/ai_qa_vi/make.py [folder]`.

Knows nothing of models. Standard library only: the same facts.jsonl and SEED
give the same bytes on every machine.
"""

import html.entities
import json
import random
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20261
LEARNT = 54  # the first 54 facts are trained, the other 30 are never seen in training

Row = dict[str, str]

# Texts that no rule can make from a training row: an answer in another language, and a leaked address.
FOREIGN = [
    ("Overfitting là gì?", "Overfitting is when a model fits its training data and fails on new data."),
    ("Hãy giải thích token là gì.", "A token is the piece of text that a language model reads and writes."),
    ("What is a benchmark?", "A benchmark is a shared set of tests for comparing models."),
    ("CPU khác gì so với GPU?", "A CPU is good at serial work, a GPU at thousands of parallel operations."),
    ("Chatbot là gì?", "聊天机器人是用自然语言与人对话的程序。"),
]
ADDRESSES = ["mai.le@example.com", "hoang.pham@example.org", "lab-ai@example.net"]


def facts() -> list[dict]:
    """The facts in order: id, kind, topic, subject (one or two terms), six questions, answer."""
    return [json.loads(line) for line in (HERE / "facts.jsonl").read_text(encoding="utf-8").splitlines()]


def frame(question: str, subject: list[str]) -> str:
    """The question with its terms taken out: "token là gì?" -> "{} là gì?" (lower case)."""
    text = question.casefold()
    for term in sorted(subject, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(term.casefold())}(?!\w)", "{}", text, count=1)
    return text


def splits() -> dict[str, list[Row]]:
    """The four splits. Of a learnt fact's six wordings four are trained, one validates, the last is new.

    The order of the wordings turns from fact to fact, so that no question frame is new to the model:
    what is held out for one fact was trained with another (checked here).
    """
    made: dict[str, list[Row]] = {"train": [], "validation": [], "new_wordings": [], "unseen_facts": []}
    trained, held_out = defaultdict(set), set()
    for number, fact in enumerate(facts()):
        rows = [{"id": fact["id"], "question": each, "answer": fact["answer"]} for each in fact["questions"]]
        if number >= LEARNT:
            made["unseen_facts"] += rows[:2]
            continue
        made["train"] += rows[:4]
        made["validation"].append(rows[4])
        made["new_wordings"].append(rows[5])
        frames = [frame(each, fact["subject"]) for each in fact["questions"]]
        for each in frames[:4]:
            trained[each].add(fact["id"])
        held_out |= {(each, fact["id"]) for each in frames[4:]}
    alone = sorted(each for each, number in held_out if len(trained[each] - {number}) < 2)
    assert not alone, f"held out, but trained for fewer than two other facts: {alone}"
    return made


# --- flaws that a row can be cured of ---------------------------------------------------------------------


def mojibake(text: str) -> str:
    """UTF-8 read as cp1252; as Latin-1 where cp1252 has no letter for a byte."""
    try:
        return text.encode().decode("cp1252")
    except UnicodeDecodeError:
        return text.encode().decode("latin-1")


def entities(text: str) -> str:
    """Letters that HTML has a name for, as old editors save them: "mô hình" -> "m&ocirc; h&igrave;nh"."""
    names = html.entities.codepoint2name
    return "".join(f"&{names[ord(each)]};" if ord(each) in names else each for each in text)


def after_first_letter(mark: str) -> Callable[[str], str]:
    return lambda text: text[0] + mark + text[1:]


def both(change: Callable[[str], str]) -> Callable[[str, str], tuple[str, str]]:
    return lambda q, a: (change(q), change(a))


REPAIR: dict[str, list[Callable[[str, str], tuple[str, str]]]] = {
    "nfd": [both(lambda text: unicodedata.normalize("NFD", text))] * 6,
    "mojibake": [both(mojibake)] * 6,
    "html": [
        lambda q, a: (q, f"<p>{a}</p>"),
        lambda q, a: (q.replace(" ", "&nbsp;", 1), a),
        lambda q, a: (q, "<b>{}</b> {}".format(*a.split(" ", 1))),
        lambda q, a: (q, a + "<br>"),
        lambda q, a: (q, a.replace(" ", "<br/>", 1)),
        lambda q, a: (f'<span style="color:#333">{q}</span>', a),
        lambda q, a: (q, entities(a)),
    ],
    "whitespace": [
        lambda q, a: (f"  {q}", f"{a} "),
        lambda q, a: (q.replace(" ", "  "), a),
        lambda q, a: (q, a.replace(" ", "\t", 1)),
        lambda q, a: (q, a.replace(" ", "\u00a0", 2)),
        lambda q, a: (q, f"{a}\n"),
    ],
    "zero_width": [
        lambda q, a: (q, after_first_letter("\u200b")(a)),
        lambda q, a: (f"\ufeff{q}", a),
        lambda q, a: (q, after_first_letter("\u200d")(a)),
        lambda q, a: (after_first_letter("\u00ad")(q), a),
    ],
}


# --- flawed lines that stand beside a sound row and are to go ----------------------------------------------


def line(question: object, answer: object) -> str:
    return json.dumps({"question": question, "answer": answer}, ensure_ascii=False)


def always(question: str, answer: str) -> Callable[[str, str], str]:
    return lambda q, a: line(question, answer)


def cut(text: str, share: float) -> str:
    return text[: int(len(text) * share)].rstrip(" .,:")


def without_marks(text: str) -> str:
    plain = unicodedata.normalize("NFD", text.replace("đ", "d").replace("Đ", "D"))
    return "".join(each for each in plain if not unicodedata.combining(each))


REMOVE: dict[str, list[Callable[[str, str], str]]] = {
    "exact_duplicate": [line] * 6,
    "near_duplicate": [
        lambda q, a: line(q.lower(), a),
        lambda q, a: line(q.upper(), a),
        lambda q, a: line(q[:-1], a),
        lambda q, a: line(f"{q}??", a),
        lambda q, a: line(f"{q[:-1]} {q[-1]}", a),
        lambda q, a: line(q, a[0].lower() + a[1:]),
        lambda q, a: line(q, f"{a[:-1]} nhé."),
        lambda q, a: line(q.lower(), f"Vâng. {a}"),
    ],
    "empty_answer": [lambda q, a: line(q, ""), lambda q, a: line(q, "   "), lambda q, a: line(q, "\t")],
    "truncated_answer": [
        lambda q, a: line(q, cut(a, 0.4)),
        lambda q, a: line(q, cut(a, 0.5)),
        lambda q, a: line(q, cut(a, 0.6)),
        lambda q, a: line(q, cut(a, 0.5) + "…"),
        lambda q, a: line(q, a.split(" ")[0]),
    ],
    "wrong_language": [always(*pair) for pair in FOREIGN],
    "no_diacritics": [lambda q, a: line(without_marks(q), without_marks(a))] * 3,
    "broken_json": [
        lambda q, a: line(q, a)[:-20],
        lambda q, a: line(q, a)[:-1] + ",}",
        lambda q, a: str({"question": q, "answer": a}),
        lambda q, a: f'{{"question": "{q}" "answer": "{a}"}}',
        lambda q, a: f'{{"question": "{q}", "answer": "Như sách viết: "{a}""}}',
    ],
    "missing_key": [
        lambda q, a: json.dumps({"question": q}, ensure_ascii=False),
        lambda q, a: json.dumps({"answer": a}, ensure_ascii=False),
        lambda q, a: json.dumps({"question": q, "anwser": a}, ensure_ascii=False),
        lambda q, a: "{}",
    ],
    "wrong_type": [
        lambda q, a: line(q, 42),
        lambda q, a: line(q, [a]),
        lambda q, a: line(q, None),
        lambda q, a: line({"text": q}, a),
        lambda q, a: json.dumps([q, a], ensure_ascii=False),
    ],
    "email": [
        lambda q, a: line(q, f"{a} Liên hệ {ADDRESSES[0]} để nhận tài liệu."),
        lambda q, a: line(f"{q} Nhờ thầy trả lời qua {ADDRESSES[1]} giúp em.", a),
        lambda q, a: line(q, f"{a} (Nguồn: {ADDRESSES[2]})."),
    ],
}


def raw(train: list[Row]) -> tuple[list[str], list[dict]]:
    """The lines of raw.jsonl, and of each flawed one its line number, kind, and what is to be done with it.

    Cleaning them gives back the questions and answers of `train`: a row to be repaired stands in place of its
    original, and every line to be removed is one too many. A duplicate comes after what it repeats.
    """
    chance = random.Random(SEED)
    rows = [(row["question"], row["answer"]) for row in train]
    chance.shuffle(rows)
    # (place, text, kind, action); the first row only gets the byte order mark, so it takes no other flaw
    lines: list[tuple[float, str, str, str]] = [(0, "\ufeff" + line(*rows[0]), "bom", "repair")]
    places = list(range(1, len(rows)))
    chance.shuffle(places)
    for kind, changes in REPAIR.items():
        for change in changes:
            place = places.pop()
            lines.append((place, line(*change(*rows[place])), kind, "repair"))
    lines += [(place, line(*rows[place]), "", "") for place in places]
    for kind, makers in REMOVE.items():
        for flawed in makers:
            place = places.pop()
            lines.append((chance.uniform(place + 0.5, len(rows)), flawed(*rows[place]), kind, "remove"))
    lines.sort(key=lambda each: each[0])
    truth = [
        {"line": number, "kind": kind, "action": action}
        for number, (_, _, kind, action) in enumerate(lines, start=1)
        if kind
    ]
    return [text for _, text, _, _ in lines], truth


def write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{each}\n" for each in lines), encoding="utf-8", newline="\n")


def main(folder: Path) -> None:
    """Write the six files into the folder."""
    made = splits()
    lines, truth = raw(made["train"])
    for name, rows in [*made.items(), ("raw_flaws", truth)]:
        write(folder / f"{name}.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows))
    write(folder / "raw.jsonl", lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
