"""Make the five splits from the three tables: `python data/function_calls/make.py [folder]`.

Knows nothing of models. Standard library only: the same tables and SEED give the same bytes on every machine.
"""

import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20265
LANGUAGES = ("vi", "en")
# Rows per split and group, both languages together. Two groups are of the kind no_tool: "absent" (a request
# for a tool that is not offered) and "smalltalk" (a request for none of the tools).
LONG = (2,)  # tools offered in conversations with results, so that no row is much longer than the others
COUNTS = {
    "train": {
        "call": 1240, "parallel": 480, "several": 100, "reply": 130, "tool_error": 70,
        "absent": 480, "smalltalk": 150, "missing": 230,
    },
    "validation": {
        "call": 28, "parallel": 4, "several": 2, "reply": 4, "tool_error": 4,
        "absent": 6, "smalltalk": 6, "missing": 6,
    },
    "test": {
        "call": 80, "parallel": 20, "several": 10, "reply": 16, "tool_error": 10,
        "absent": 22, "smalltalk": 22, "missing": 20,
    },
    "new_wordings": {"call": 60},
    "unseen_tools": {"call": 56, "absent": 12, "missing": 12},
}  # fmt: skip
LETTERS = "ABCDEGHKLMNPT"  # of order and parcel numbers
CONSONANTS = "BCDFGHKLMNPRSTV"  # of stock symbols: none becomes a word by chance
VND = {"VND": 1, "USD": 25000, "EUR": 28000, "JPY": 160}  # invented rates
STEPS = {"VND": 1000, "USD": 1, "EUR": 1, "JPY": 100}  # amounts are multiples of these
UNITS = {("kg", "g"): 1000, ("km", "m"): 1000, ("m", "cm"): 100}  # ... and back

Json = dict[str, object]
Row = dict[str, str]
Made = tuple[str, list[Json]]  # the offered tools, the messages


def table(name: str) -> list[dict]:
    """The lines of one of the three source tables: tools, values, smalltalk."""
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def endless(rng: random.Random, values: list) -> Iterator:
    """All values in random order, then all again in another order."""
    while True:
        yield from rng.sample(values, len(values))


def halves(rng: random.Random, values: list) -> dict[str, list]:
    """Of every four neighbours one for the test pool, the others for training."""
    groups = [values[start : start + 4] for start in range(0, len(values), 4)]
    test = {rng.choice(group) for group in groups}
    return {"train": [each for each in values if each not in test], "test": sorted(test, key=values.index)}


def plain(number: float, digits: int) -> int | float:
    """Rounded; a whole number without a point."""
    rounded = round(number, digits)
    return int(rounded) if rounded == int(rounded) else rounded


class Supply:
    """The values of one pool, "train" or "test", one after another. No value is in both pools."""

    def __init__(self, rng: random.Random, own: dict[str, list], drawn: set[str]) -> None:
        self.rng, self.own, self.drawn = rng, own, drawn
        self.of = {kind: endless(rng, values) for kind, values in own.items()}

    def fresh(self, make: Callable[[], str]) -> str:
        """An identifier that was not drawn before, in whatever split."""
        while (value := make()) in self.drawn:
            pass
        self.drawn.add(value)
        return value

    def code(self, letters: str, count: int, digits: int) -> str:
        """An identifier such as A1203."""
        start = "".join(self.rng.choices(letters, k=count))
        return f"{start}{self.rng.randrange(10 ** (digits - 1), 10**digits)}"

    def number(self, first: int, last: int) -> int:
        return next(number for number in self.of["number"] if first <= number <= last)

    def time(self, first: int, last: int) -> str:
        """A time of day between two full hours."""
        return next(time for time in self.of["time"] if first <= int(time.split(":")[0]) < last)

    def argument(self, tool: str, name: str, language: str) -> object:
        rng = self.rng
        if name in ("city", "dish", "title", "word", "language", "topic"):
            return next(self.of[name])[language]
        if name == "date":
            return next(self.of["date"])
        if name == "time":
            return self.time(4, 10) if tool == "set_alarm" else self.time(7, 22)
        if name == "minutes":
            return self.number(2, 180)
        if name == "nights":
            return self.number(2, 20)
        if name == "max_price":  # dong in Vietnamese
            return self.number(10, 300) * (1000 if language == "vi" else 1)
        if name == "unit":
            return rng.choice(("celsius", "fahrenheit"))
        makers = {
            "order_id": lambda: self.code(LETTERS, rng.randrange(2), 4),
            "parcel_id": lambda: self.code(LETTERS, 2, 4),
            "flight": lambda: rng.choice(("VN", "QH", "VJ", "BL")) + self.code("", 0, 3),
            "symbol": lambda: "".join(rng.choices(CONSONANTS, k=3)),
        }
        return self.fresh(makers[name])

    def arguments(self, tool: dict, language: str) -> Json:
        """A value for every parameter of a tool, in the schema's order."""
        names = list(tool["parameters"]["properties"])
        if tool["name"] == "convert_currency":
            source, target = self.rng.sample(list(VND), 2)
            values = [self.number(2, 999) * STEPS[source], source, target]
        elif tool["name"] == "convert_unit":
            pair = self.rng.choice(list(UNITS))
            values = [self.number(2, 999), *(pair if self.rng.random() < 0.5 else pair[::-1])]
        else:
            values = [self.argument(tool["name"], name, language) for name in names]
        return dict(zip(names, values, strict=True))

    def result(self, tool: dict, given: Json, language: str) -> Json:
        """What the tool answers: one field."""
        ((field, form),) = tool["result"].items()
        kind = form["kind"]
        if kind == "integer":
            number = self.rng.randrange(form["from"], form["to"] + 1)
            return {field: round(number * 1.8 + 32) if given.get("unit") == "fahrenheit" else number}
        if kind == "time":
            return {field: next(self.of["time"])}
        if kind == "currency_result":
            return {
                field: plain(given["amount"] * VND[given["from_currency"]] / VND[given["to_currency"]], 2)
            }
        if kind == "unit_result":
            pair = (given["from_unit"], given["to_unit"])
            return {
                field: plain(given["value"] * (UNITS[pair] if pair in UNITS else 1 / UNITS[pair[::-1]]), 6)
            }
        if kind == "translation":
            (word,) = (each for each in self.own["word"] if each[language] == given["word"])
            (into,) = (each["en"] for each in self.own["language"] if each[language] == given["language"])
            return {field: word["translations"][into]}
        return {field: next(self.of[kind])[language]}


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def calling(*calls: tuple[str, Json]) -> Json:
    made = [{"type": "function", "function": {"name": name, "arguments": each}} for name, each in calls]
    return {"role": "assistant", "thinking": ", ".join(name for name, _ in calls), "tool_calls": made}


def answering(thinking: str, content: str) -> Json:
    return {"role": "assistant", "thinking": thinking, "content": content}


def answered(name: str, content: Json) -> Json:
    return {"role": "tool", "name": name, "content": compact(content)}


class Maker:
    """Makes the rows of one split after another; the methods named as the groups make one row each."""

    def __init__(self) -> None:
        self.rng = rng = random.Random(SEED)
        self.tools = {row["name"]: row for row in table("tools")}
        self.trained = [name for name, row in self.tools.items() if row["split"] == "train"]
        self.held_out = [name for name in self.tools if name not in self.trained]
        self.talks = table("smalltalk")
        self.texts: dict[str, list[dict]] = {}  # values, connecting words, fixed replies
        for row in table("values"):
            self.texts.setdefault(row["kind"], []).append(row)
        pools = {
            "number": halves(rng, list(range(2, 1000))),
            "time": halves(rng, [f"{hour}:{minute:02d}" for hour in range(24) for minute in range(0, 60, 5)]),
            "date": halves(rng, [f"{day}/{month}" for month in range(1, 13) for day in range(1, 29)]),
        }
        drawn = set(VND)
        self.supply = {}
        for pool in ("train", "test"):
            own = {kind: [row for row in rows if row["split"] == pool] for kind, rows in self.texts.items()}
            self.supply[pool] = Supply(rng, own | {kind: pools[kind][pool] for kind in pools}, drawn)
        self.said: set[str] = set()  # no request is there twice, in whatever split

    # ---- parts of a row

    def offer(self, needed: list[str], others: list[str], sizes: tuple[int, ...] = (2, 2, 3, 3, 4)) -> str:
        """The needed tools and some of the others, in random order; `sizes`: how many together."""
        rest = [name for name in others if name not in needed]
        names = needed + self.rng.sample(rest, self.rng.choice(sizes) - len(needed))
        self.rng.shuffle(names)
        keys = ("name", "description", "parameters")
        functions = [{key: self.tools[name][key] for key in keys} for name in names]
        return compact([{"type": "function", "function": each} for each in functions])

    def request(self, name: str, language: str, endings: str = ".?!") -> tuple[str, Json]:
        """A wording of the tool filled in, and the call's arguments: those that the wording names."""
        tool = self.tools[name]
        new = self.split == "new_wordings"
        wordings = tool["wordings_test" if new else "wordings"][language]
        if tool["optional"][language] and not new and self.rng.random() < 0.35:
            wordings = tool["optional"][language]
        wording = self.rng.choice([each for each in wordings if each[-1] in endings])
        values = self.values.arguments(tool, language)
        named = set(re.findall(r"{(\w+)}", wording))
        return wording.format(**values), {key: value for key, value in values.items() if key in named}

    def framed(self, text: str, language: str) -> Json:
        """The user's message: one in four with a greeting before the request or a word after it."""
        if self.rng.random() < 0.25:
            place = self.rng.choice(("before", "after"))
            other = self.rng.choice(self.texts[place])[language]
            text = f"{other} {text}" if place == "before" else f"{text} {other}"
        return user(text)

    def joined(self, kind: str, first: str, second: str, language: str) -> str:
        """Two requests as one sentence: "Tell me ... and show ..."."""
        names = tuple(row[language] for row in self.texts["city"])
        if not second.startswith((*names, "I ")) and not re.match(r"\S*\d", second):
            second = second[0].lower() + second[1:]
        return self.rng.choice(self.texts[kind])[language].format(first=first.rstrip(".?!"), second=second)

    def fixed(self, kind: str, language: str, **values: object) -> str:
        """One of the three replies that are always the same."""
        return self.texts[f"reply_{kind}"][0][language].format(**values)

    def done(self, name: str, arguments: Json, language: str) -> tuple[list[Json], str]:
        """The messages of a call and its result, and what to say of it."""
        tool = self.tools[name]
        result = self.values.result(tool, arguments, language)
        shown = {key: each if isinstance(each, str) else compact(each) for key, each in arguments.items()}
        shown |= {key: each if isinstance(each, str) else compact(each) for key, each in result.items()}
        return [calling((name, arguments)), answered(name, result)], tool["reply"][language].format(**shown)

    # ---- the groups

    def call(self, name: str, language: str) -> Made:
        text, arguments = self.request(name, language)
        return self.offer([name], self.offered), [self.framed(text, language), calling((name, arguments))]

    def parallel(self, name: str, language: str) -> Made:
        other = name if self.rng.random() < 0.5 else self.rng.choice([n for n in self.wanted if n != name])
        (first, one), (second, two) = self.request(name, language), self.request(other, language)
        while (name, one) == (other, two):  # the same thing twice is no request for two things
            second, two = self.request(other, language)
        together = first[-1] == second[-1] and self.rng.random() < 0.7  # no question after a statement
        text = self.joined("and", first, second, language) if together else f"{first} {second}"
        tools = self.offer(list(dict.fromkeys((name, other))), self.offered)
        return tools, [self.framed(text, language), calling((name, one), (other, two))]

    def several(self, name: str, language: str) -> Made:
        other = self.rng.choice([each for each in self.wanted if each != name])
        (first, one), (second, two) = self.request(name, language, "."), self.request(other, language, ".")
        text = self.joined("then", first, second, language)
        steps, reply = self.done(name, one, language)
        more, another = self.done(other, two, language)
        messages = [self.framed(text, language), *steps, *more, answering("done", f"{reply} {another}")]
        return self.offer([name, other], self.offered, LONG), messages

    def reply(self, name: str, language: str) -> Made:
        text, arguments = self.request(name, language)
        steps, reply = self.done(name, arguments, language)
        messages = [self.framed(text, language), *steps, answering("done", reply)]
        return self.offer([name], self.offered, LONG), messages

    def tool_error(self, name: str, language: str) -> Made:
        text, arguments = self.request(name, language)
        error = next(self.values.of["error"])[language]
        steps = [calling((name, arguments)), answered(name, {"error": error})]
        reply = answering("error", self.fixed("error", language, error=error))
        return self.offer([name], self.offered, LONG), [self.framed(text, language), *steps, reply]

    def absent(self, name: str, language: str) -> Made:
        others = self.trained
        if self.split == "unseen_tools" and self.rng.random() < 0.5:
            name, others = self.rng.choice(self.trained), self.held_out
        text, _ = self.request(name, language)
        tools = self.offer([], [each for each in others if each != name])
        return tools, [self.framed(text, language), answering("none", self.fixed("no_tool", language))]

    def smalltalk(self, name: str, language: str) -> Made:
        text = self.rng.choice([row for row in self.talks if row["split"] == self.pool])[language]
        reply = answering("none", self.fixed("no_tool", language))
        return self.offer([], self.offered), [self.framed(text, language), reply]

    def missing(self, name: str, language: str) -> Made:
        tool = self.tools[name]
        wording = self.rng.choice(tool["missing_test" if self.split == "test" else "missing"][language])
        text = wording["text"].format(**self.values.arguments(tool, language))
        label = tool["labels"][wording["lacks"]][language]
        reply = answering(f"{name} lacks {wording['lacks']}", self.fixed("missing", language, label=label))
        return self.offer([name], self.offered), [self.framed(text, language), reply]

    def rows(self, split: str) -> list[Row]:
        """All rows of a split, in random order."""
        self.split = split
        self.pool = "train" if split in ("train", "validation") else "test"
        self.values = self.supply[self.pool]
        unseen = split == "unseen_tools"
        self.wanted = self.held_out if unseen else self.trained
        self.offered = list(self.tools) if unseen else self.trained
        made = []
        for group, count in COUNTS[split].items():
            kind = "no_tool" if group in ("absent", "smalltalk") else group
            for language in LANGUAGES:
                names = endless(self.rng, self.wanted)
                for number in range(1, count // 2 + 1):
                    name = next(names)
                    while True:
                        tools, messages = getattr(self, group)(name, language)
                        if messages[0]["content"] not in self.said:
                            break
                    self.said.add(messages[0]["content"])
                    row = {
                        "id": f"{split}-{group}-{number:03d}-{language}",
                        "kind": kind,
                        "language": language,
                    }
                    made.append({**row, "tools": tools, "messages": compact(messages)})
        self.rng.shuffle(made)
        return made


def splits() -> dict[str, list[Row]]:
    """The five splits."""
    maker = Maker()
    return {split: maker.rows(split) for split in COUNTS}


def main(folder: Path) -> None:
    for name, rows in splits().items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
