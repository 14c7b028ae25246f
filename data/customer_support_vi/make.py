"""Make the splits from intents.jsonl and values.jsonl: `python data/customer_support_vi/make.py [folder]`.

Knows nothing of models. Standard library only: the same tables and SEED give the same bytes on every machine.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20263
LANGUAGES = ("vi", "en")
SPLITS = ("train", "validation", "test", "unseen_intents")
SLOTS = ("order", "product", "city", "date", "amount")  # keys of the column `slots`; "" where a row has none

Message = dict[str, str]
Row = dict[str, object]
Values = dict[str, dict[str, str]]  # slot -> language -> value

SYSTEM = {
    "vi": "Bạn là nhân viên hỗ trợ của một cửa hàng trực tuyến.",
    "en": "You work at the support desk of an online shop.",
}
# What the desk asks where the customer left out the one value that the reply needs ...
ASK = {
    "order": {
        "vi": "Dạ, anh/chị cho em xin mã đơn hàng với ạ.",
        "en": "Could you please tell me your order number?",
    },
    "product": {
        "vi": "Dạ, anh/chị cho em hỏi đó là sản phẩm nào ạ?",
        "en": "Could you please tell me which product it is?",
    },
    "city": {
        "vi": "Dạ, anh/chị cho em hỏi mình ở thành phố nào ạ?",
        "en": "Could you please tell me which city it is?",
    },
}
# ... and how the customer gives it: (Vietnamese, English), other wordings in the test than in training.
GIVE = {
    "order": {
        "train": (
            ("Mã đơn là {} ạ.", "The order number is {}."),
            ("Đơn {} nhé shop.", "It is order {}."),
            ("Dạ, {} ạ.", "Here it is, {}."),
        ),
        "test": (("Đơn hàng {} ạ.", "It is {}."), ("Mã là {} nhé shop.", "The number is {}.")),
    },
    "product": {
        "train": (
            ("Là {} ạ.", "It is the {}."),
            ("Mình mua {} nhé.", "I bought the {}."),
            ("Em nhận {} nhé shop.", "I got the {}."),
        ),
        "test": (("Là {} nhé shop.", "The {}, please."), ("Em mua {} ạ.", "It is the {} I bought.")),
    },
    "city": {
        "train": (("Ở {} ạ.", "In {}."), ("Mình ở {} nhé.", "I am in {}."), ("Em đang ở {} ạ.", "It is {}.")),
        "test": (("Mình đang ở {} ạ.", "It is in {}."), ("Em ở {} nhé shop.", "I am in {} now.")),
    },
}


def table(name: str) -> list[dict]:
    """The lines of one of the two source tables, intents or values."""
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def endless(rng: random.Random, values: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """All values in random order, then all again in another order."""
    while True:
        yield from rng.sample(values, len(values))


def supplies(rng: random.Random) -> dict[str, dict[str, Iterator[dict[str, str]]]]:
    """Per split and slot, values to take one after another. No value is in two splits."""
    rows = table("values")
    orders = (f"#{number}" for number in rng.sample(range(10000, 100000), 1000))
    days = [(day, month) for day in range(1, 29) for month in (3, 5, 6, 9, 10)]
    months = {3: "March", 5: "May", 6: "June", 9: "September", 10: "October"}
    dates = [{"vi": f"{day}/{month}", "en": f"{day} {months[month]}"} for day, month in days]
    thousands = rng.sample(range(100, 1000, 10), 90)
    amounts = [{"vi": f"{each}.000 đồng", "en": f"{each},000 dong"} for each in thousands]
    rng.shuffle(dates)
    made = {}
    for number, split in enumerate(SPLITS):
        made[split] = {}
        for slot in ("product", "city"):
            own = [row for row in rows if row["slot"] == slot and row["split"] == split]
            made[split][slot] = endless(rng, own)
        made[split]["order"] = ({"vi": order, "en": order} for order in orders)  # each is used once
        made[split]["date"] = endless(rng, dates[number::4])
        made[split]["amount"] = endless(rng, amounts[number::4])
    return made


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def exchange(intent: dict, wording: dict, values: Values, language: str, turn: int) -> list[Message]:
    """Question and reply; where the question leaves the value out, the desk asks for it and gets it first."""
    own = {slot: texts[language] for slot, texts in values.items()}
    question = said("user", wording[language].format(**own))
    reply = said("assistant", intent["reply"][language].format(**own))
    if not wording["open"]:
        return [question, reply]
    (slot,) = intent["slots"]
    frames = GIVE[slot][wording["split"]]
    given = frames[turn % len(frames)][LANGUAGES.index(language)].format(own[slot])
    return [question, said("assistant", ASK[slot][language]), said("user", given), reply]


def splits() -> dict[str, list[Row]]:
    """The four splits. A conversation and its counterpart in the other language are in the same one."""
    rng = random.Random(SEED)
    supply = supplies(rng)
    intents = table("intents")
    made: dict[str, list[Row]] = {split: [] for split in SPLITS}
    # What a customer asked before saying thanks: trained wordings go before trained thanks, and so on.
    before = {
        split: [
            (intent, wording)
            for intent in intents
            for wording in intent["wordings"]
            if intent["slots"] and wording["split"] == split and not wording["open"]
        ]
        for split in SPLITS
    }
    for pairs in before.values():
        rng.shuffle(pairs)
    turn = 0  # of the open questions, so that the ways to give a value take turns
    for intent in intents:
        for number, wording in enumerate(intent["wordings"], start=1):
            split = wording["split"]
            history = before[split].pop() if intent["intent"] == "thanks" else None
            asked = history[0] if history else intent
            values = {slot: next(supply[split][slot]) for slot in asked["slots"]}
            for language in LANGUAGES:
                earlier = exchange(*history, values, language, turn) if history else []
                messages = [
                    said("system", SYSTEM[language]),
                    *earlier,
                    *exchange(intent, wording, values, language, turn),
                ]
                made[split].append(
                    {
                        "id": f"{intent['intent']}-{number:02d}-{language}",
                        "intent": intent["intent"],
                        "category": intent["category"],
                        "language": language,
                        "messages": messages,
                        "slots": {slot: values.get(slot, {}).get(language, "") for slot in SLOTS},
                    }
                )
            turn += wording["open"]
    for rows in made.values():
        rng.shuffle(rows)
    return made


def main(folder: Path) -> None:
    for name, rows in splits().items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
