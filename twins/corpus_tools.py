"""Generated conversations about made-up tools, for a twin that shall learn to call functions.

What such a model can do before the lesson begins: find in the prompt, among two to four tools, the one that a
request in Vietnamese or English is about; copy the values of the request into JSON; say that no tool fits, or
which value is missing; repeat a result. It does so in a convention of its own, which is not the lesson's
(no tags, other keys), and with tools that are a verb and a noun drawn at random. The pairs that the course's
dataset has are left out.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twins import corpus_terms as terms
from twins.corpus import Lexicon, split_words
from twins.corpus_chat import Conversation

# English word, as in a tool's name: (how Vietnamese asks, how English asks).
VERBS = {
    "get": (("xem", "cho biết", "lấy"), ("show", "tell me", "get")),
    "find": (("tìm", "kiếm", "chỉ giúp"), ("find", "look for")),
    "check": (("kiểm tra", "xem lại"), ("check", "look at")),
    "cancel": (("hủy", "bỏ"), ("cancel", "drop")), "book": (("đặt chỗ", "giữ chỗ"), ("book", "reserve")),
    "open": (("mở",), ("open",)), "close": (("đóng",), ("close", "shut")),
    "send": (("gửi", "chuyển"), ("send", "give")), "play": (("phát", "bật", "chơi"), ("play", "turn on")),
    "list": (("liệt kê", "kể ra"), ("list", "show all")), "count": (("đếm",), ("count", "add up")),
    "rate": (("chấm điểm", "đánh giá"), ("rate", "judge")), "buy": (("mua",), ("buy", "pay for")),
    "sell": (("bán",), ("sell",)), "paint": (("sơn", "tô"), ("paint",)), "fix": (("sửa",), ("fix", "mend")),
    "move": (("dời", "dịch chuyển"), ("move", "shift")), "save": (("lưu", "ghi"), ("save", "keep")),
    "share": (("chia sẻ",), ("share",)), "set": (("đặt", "hẹn", "cài"), ("set", "put")),
    "create": (("tạo", "thêm", "lập"), ("create", "add", "make")),
    "convert": (("đổi", "quy đổi"), ("convert", "change")), "track": (("theo dõi",), ("track", "follow")),
    "search": (("tra", "tra cứu"), ("search", "look up")), "translate": (("dịch",), ("translate",)),
    "stop": (("dừng", "tắt"), ("stop", "turn off")),
}
NOUNS = {
    "song": ("bài hát", "song"), "book": ("sách", "book"), "room": ("phòng", "room"), "lamp": ("đèn", "lamp"),
    "door": ("cửa", "door"), "garden": ("vườn", "garden"), "letter": ("thư", "letter"),
    "box": ("hộp", "box"), "ticket": ("vé", "ticket"), "game": ("trò chơi", "game"),
    "photo": ("ảnh", "photo"),
    "map": ("bản đồ", "map"), "boat": ("thuyền", "boat"),
    "cake": ("bánh", "cake"), "bus": ("xe buýt", "bus"),
    "doctor": ("bác sĩ", "doctor"), "film": ("phim", "film"), "note": ("ghi chú", "note"),
    "table": ("bàn", "table"), "shoe": ("giày", "shoe"), "weather": ("thời tiết", "weather"),
    "air_quality": ("chất lượng không khí", "air quality"), "time": ("giờ", "time"),
    "currency": ("tiền", "money"), "stock_price": ("giá cổ phiếu", "stock price"),
    "order_status": ("tình trạng đơn", "order status"), "order": ("đơn hàng", "order"),
    "unit": ("đơn vị", "unit"), "alarm": ("báo thức", "alarm"), "timer": ("đếm giờ", "timer"),
    "events": ("các sự kiện", "events"), "event": ("sự kiện", "event"),
    "restaurant": ("quán ăn", "restaurant"),
    "word": ("từ", "word"), "flight_status": ("tình trạng chuyến bay", "flight status"),
    "flight": ("chuyến bay", "flight"), "hotel": ("khách sạn", "hotel"), "parcel": ("bưu kiện", "parcel"),
    "news": ("tin tức", "news"), "price": ("giá", "price"), "calendar": ("lịch", "calendar"),
}
# Of the parameters: JSON type, (what Vietnamese calls it, what English calls it), what its values are.
PARAMETERS = {
    "name": ("string", ("tên", "name"), "name"), "color": ("string", ("màu", "color"), "word"),
    "place": ("string", ("chỗ", "place"), "word"), "person": ("string", ("người", "person"), "name"),
    "code": ("string", ("mã", "code"), "code"), "count": ("integer", ("số lượng", "count"), "integer"),
    "size": ("number", ("cỡ", "size"), "number"), "day": ("string", ("hôm", "day"), "date"),
    "hour": ("string", ("lúc", "hour"), "time"), "label": ("string", ("nhãn", "label"), "words"),
    "from_place": ("string", ("nơi đi", "start"), "word"), "to_place": ("string", ("nơi đến", "end"), "word"),
    "city": ("string", ("thành phố", "city"), "words"), "amount": ("number", ("số tiền", "amount"), "number"),
    "unit": ("string", ("độ", "degrees"), "choice"), "value": ("number", ("con số", "value"), "number"),
    "from_currency": ("string", ("tiền gốc", "from currency"), "currency"),
    "to_currency": ("string", ("sang tiền", "to currency"), "currency"),
    "from_unit": ("string", ("đơn vị gốc", "from unit"), "unit"),
    "to_unit": ("string", ("sang đơn vị", "to unit"), "unit"),
    "symbol": ("string", ("mã cổ phiếu", "stock symbol"), "letters"),
    "order_id": ("string", ("mã đơn", "order number"), "code"),
    "parcel_id": ("string", ("mã bưu kiện", "parcel number"), "code"),
    "flight": ("string", ("số hiệu", "flight number"), "code"),
    "time": ("string", ("giờ", "time"), "time"),
    "date": ("string", ("ngày", "date"), "date"), "minutes": ("integer", ("phút", "minutes"), "integer"),
    "nights": ("integer", ("số đêm", "nights"), "integer"),
    "title": ("string", ("tiêu đề", "title"), "words"),
    "dish": ("string", ("món", "dish"), "words"),
    "max_price": ("integer", ("giá dưới", "price up to"), "integer"),
    "word": ("string", ("từ", "word"), "word"), "language": ("string", ("tiếng", "language"), "words"),
    "topic": ("string", ("chủ đề", "topic"), "words"),
}
CHOICES = {"currency": ("VND", "USD", "EUR", "JPY", "GBP", "THB"), "unit": ("kg", "g", "km", "m", "cm", "mm")}
FRAMES = (
    ("Hãy {v} {n}{a}.", "Giúp mình {v} {n}{a}.", "{v} {n}{a}.", "{v} {n}{a} giúp mình.",
     "Mình muốn {v} {n}{a}.",
     "Bạn {v} {n}{a} được không?", "{v} {n}{a} nhé.", "Cho mình {v} {n}{a}.", "{n}{a}, {v} giúp mình.",
     "Mình cần {v} {n}{a} ạ."),
    ("Please {v} the {n}{a}.", "{v} the {n}{a}.", "Can you {v} the {n}{a}?", "I want to {v} the {n}{a}.",
     "{v} the {n}{a}, please.",
     "I need to {v} the {n}{a}.", "Could you {v} a {n}{a}?", "The {n}{a}: {v} it."),
)
# Without the verb, where no other tool that is offered has the noun.
NOUN_FRAMES = (
    ("{n}{a} thế nào?", "{n}{a} đâu rồi?", "Mình hỏi về {n}{a}.", "Có {n}{a} không?", "{n}{a} ra sao?"),
    ("What about the {n}{a}?", "How is the {n}{a}?", "I ask about the {n}{a}.", "Is there a {n}{a}?",
     "Where is the {n}{a}?"),
)
# Everyday words that go with a noun, where a request does not name it.
HINTS = {
    "weather": (("nóng", "lạnh", "nhiệt độ", "mấy độ", "trời"), ("hot", "cold", "temperature", "degrees")),
    "air_quality": (("không khí", "ô nhiễm", "sạch"), ("air", "clean", "polluted")),
    "time": (("mấy giờ", "giờ địa phương"), ("what time", "local time")),
    "currency": (("đổi tiền", "bao nhiêu", "quy ra"), ("exchange", "how much", "money")),
    "stock_price": (("cổ phiếu", "giá mã"), ("stock", "share", "share price")),
    "order_status": (("giao chưa", "đơn đâu"), ("on its way", "status of order")),
    "order": (("đơn", "không cần nữa"), ("not want order", "drop order")),
    "unit": (("bằng mấy", "là mấy"), ("how many", "equals")),
    "alarm": (("dậy", "đánh thức", "gọi dậy"), ("wake", "wake up", "get up")),
    "timer": (("hẹn giờ", "đếm ngược"), ("countdown", "timer for")),
    "events": (("có gì", "bận gì", "lịch hôm"), ("calendar of", "plans for")),
    "event": (("ghi lịch", "lên lịch", "thêm vào lịch"), ("add to calendar", "plan", "note")),
    "restaurant": (("quán", "ăn", "chỗ ăn"), ("eat", "place to eat", "food")),
    "word": (("nói bằng", "nghĩa", "viết bằng"), ("say", "called", "in words")),
    "flight_status": (("chuyến trễ", "đúng giờ"), ("flight late", "on time")),
    "flight": (("chuyến", "bay"), ("fly", "plane")), "hotel": (("ở lại", "ngủ"), ("stay", "sleep")),
    "parcel": (("kiện hàng", "gói hàng"), ("package", "packet")),
    "news": (("tin", "tin mới"), ("headlines", "latest")),
    "song": (("nhạc", "nghe"), ("music", "listen")), "book": (("đọc",), ("read",)),
    "lamp": (("sáng",), ("light", "bright")), "ticket": (("chỗ ngồi",), ("seat",)),
    "photo": (("chụp",), ("picture",)), "map": (("đường đi",), ("route",)), "cake": (("ngọt",), ("sweet",)),
    "bus": (("trạm",), ("bus stop",)), "doctor": (("khám", "đau"), ("sick", "pain")),
    "film": (("rạp",), ("cinema",)), "note": (("nhớ",), ("remember",)), "shoe": (("chân",), ("feet",)),
}
HINT_FRAMES = (
    ("{h}{a}?", "{h}{a} nhé.", "Mình muốn {h}{a}.", "{h}{a} giúp mình.", "{a}, {h}?", "{h}{a} thế nào?"),
    ("{h}{a}?", "{h}{a}, please.", "I want {h}{a}.", "Is it {h}{a}?", "{a}, {h}?", "Can I {h}{a}?"),
)
POLITE = (
    (("Chào. ", "Này, ", "Alo, "), (" Cảm ơn nhé.", " Gấp lắm.", " Nhanh nhé.")),
    (("Hello. ", "Hey, ", "Well, "), (" Thanks.", " It is urgent.", " Quick.")),
)
JOIN = ((" và ", ", rồi ", ". "), (" and ", ", then ", ". "))
AT_ONCE = ((" và ", ", còn ", ". "), (" and ", ", also ", ". "))
IN_TURN = ((" rồi ", ", rồi ", ", sau đó ", ", xong "), (" then ", ", then ", " and then ", ", after that "))
NONE = ("Rất tiếc, chưa có gì làm được việc ấy.", "Alas, nothing here can do it.")
ASK = ("Xin nói rõ {}.", "Which {}?")
ERROR = ("Lỗi rồi: {}.", "It failed: {}.")
FAILURES = ("closed", "busy", "too late", "no signal", "not there", "out of order", "timeout", "no access")
SMALL_TALK = (
    ("Chào bạn!", "Bạn khỏe không?", "Hôm nay vui quá.", "Kể chuyện cười đi.", "Bạn thích màu nào?",
     "Cảm ơn bạn nhiều.", "Buồn ngủ ghê.", "Nhà bạn ở xa không?", "Làm thơ tặng mình đi.", "Ai cao nhất lớp?",
     "Trẻ con ồn quá.", "Đố bạn con gì bay?", "Mai gặp lại nhé!"),
    ("Hello there!", "How are you?", "What a happy day.", "Make me laugh.", "Which color suits you?",
     "Thanks for everything.", "I am tired.", "Who are you?", "Sing something.", "Who is the tallest?",
     "The children are loud.", "Guess what I see.", "See you tomorrow!"),
)
KINDS = {"call": 40, "none": 22, "talk": 6, "missing": 9, "parallel": 9, "result": 9, "failure": 5}
EVERYDAY = {"call": 40, "none": 24, "talk": 6, "missing": 12, "parallel": 9, "result": 6, "failure": 3}
IN_STEPS = {
    "call": 32, "none": 22, "talk": 5, "missing": 13, "parallel": 10, "several": 9, "result": 6, "failure": 3,
}
WORDS = IN_STEPS | {"result": 18, "failure": 6}
MIXES = {"plain": KINDS, "everyday": EVERYDAY, "steps": IN_STEPS, "words": WORDS}
FIELDS = ("state", "total", "note", "level", "answer")  # of results
ROLES = {"user": "user", "assistant": "model"}
KEYS = ("name", "arguments")  # of a call in the lesson: words that pre-training has to have written once
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ARGUMENTS = ("city", "dish", "title", "topic", "word", "language")  # values.jsonl: kinds that calls hold


@dataclass(frozen=True)
class Talk(Conversation):
    """A conversation about tools. What stands before the first ": " of an answer is its decision."""

    kind: str = ""  # of IN_STEPS, which has them all


@dataclass(frozen=True)
class _Words:
    lexicon: Lexicon  # of the values
    taken: frozenset[str]
    mix: str  # of MIXES

    @property
    def everyday(self) -> bool:
        return self.mix != "plain"

    @property
    def in_turn(self) -> bool:
        return "several" in MIXES[self.mix]


@dataclass(frozen=True)
class _Tool:
    verb: str
    noun: str
    parameters: dict[str, str]  # name: "string", "number", "integer", or the words to choose from, as "a|b"
    optional: str = ""

    @property
    def name(self) -> str:
        return f"{self.verb}_{self.noun}"


def read_words(folder: Path) -> tuple[Lexicon, Lexicon]:
    """Single words of data/function_calls: all of them, and those of the values that its calls hold.

    Args:
        folder: with tools.jsonl, values.jsonl and smalltalk.jsonl.

    Returns:
        two `Lexicon`s, without any order but the pairs that must not stand side by side.
    """
    everything = list(KEYS)
    values: list[str] = []
    for name in ("tools", "values", "smalltalk"):
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            everything += _strings(row)
            if row.get("kind") in ARGUMENTS:
                values += [row["vi"], row["en"]]
    return _lexicon(everything), _lexicon(values)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield re.sub(r"\{\w+\}", ".", value)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _lexicon(texts: list[str]) -> Lexicon:
    told = [split_words(text) for text in texts]
    pairs = {(a.lower(), b.lower()) for words in told for a, b in zip(words, words[1:], strict=False)}
    return Lexicon(tuple(sorted({word for words in told for word in words})), frozenset(pairs))


def talks(
    values: Lexicon, *, taken: frozenset[str], seed: int, count: int, mix: str = "plain"
) -> Iterator[Talk]:
    """Conversations, the same for the same arguments.

    Args:
        values: words of which arguments are made.
        taken: names that no tool may have: those of the course's dataset.
        seed: of every random draw.
        count: how many.
        mix: a key of `MIXES`. "everyday": many requests do not name what they are about (`HINTS`), some begin
            or end politely. "steps": these too, and what is asked for with a "then" is called one after the
            other, each call after the result of the one before. "words": as "steps", and `KEYS` occur in
            results: a word that long is in no answer sinks below all others, where LoRA cannot fetch it.
    """
    rng, words = random.Random(f"tools-{seed}"), _Words(values, taken, mix)
    kinds, weights = zip(*MIXES[mix].items(), strict=True)
    for _ in range(count):
        kind = rng.choices(kinds, weights)[0]
        messages = tuple(_talk(rng, words, kind))
        # The roles' names stand there for the tokenizer, which learns its words from this text.
        told = "\n".join(f"{ROLES[role]}\n{content}" for role, content in messages)
        yield Talk(told, messages=messages, kind=kind)


def _talk(rng: random.Random, words: _Words, kind: str) -> Iterator[tuple[str, str]]:
    language = rng.randrange(2)  # 0 is Vietnamese, 1 English
    tools = _offered(rng, words)
    offer = "tools: " + _json([_signature(tool) for tool in tools])
    if kind == "talk":
        yield "user", f"{offer}\n\n{rng.choice(SMALL_TALK[language])}"
        yield "assistant", f"none: {NONE[language]}"
        return
    if kind == "none":
        tool = _other(rng, words, tools)
        alone = tool.noun not in {other.noun for other in tools}
        yield "user", f"{offer}\n\n{_asked(rng, words, language, tool, _values(rng, words, tool), alone)}"
        yield "assistant", f"none: {NONE[language]}"
        return
    tool = rng.choice(tools)
    values = _values(rng, words, tool)
    alone = [other.noun for other in tools].count(tool.noun) == 1
    if kind == "missing":
        lacks = rng.choice([name for name in values if name != tool.optional])
        del values[lacks]
        yield "user", f"{offer}\n\n{_asked(rng, words, language, tool, values, alone)}"
        label = PARAMETERS[lacks][1][language]
        yield "assistant", f"{tool.name} lacks {lacks}: {ASK[language].format(label)}"
        return
    request = _asked(rng, words, language, tool, values, alone)
    if kind == "parallel":
        second = tool if rng.random() < 0.5 else rng.choice(tools)
        ways = AT_ONCE if words.in_turn else JOIN
        request, more = _and_then(rng, words, language, request, second, ways)
        yield "user", f"{offer}\n\n{request}"
        yield "assistant", f"{tool.name}, {second.name}: {_call(tool, values)}{_call(second, more)}"
        return
    if kind == "several":
        second = rng.choice([other for other in tools if other is not tool])
        request, more = _and_then(rng, words, language, request, second, IN_TURN)
    yield "user", f"{offer}\n\n{request}"
    yield "assistant", f"{tool.name}: {_call(tool, values)}"
    if kind == "several":
        yield "user", f"result: {_json(_result(rng, words, tool))}"
        yield "assistant", f"{second.name}: {_call(second, more)}"
    elif kind == "failure":
        failure = rng.choice(FAILURES)
        yield "user", "result: " + _json({"tool": tool.name, "error": failure})
        yield "assistant", "error: " + ERROR[language].format(failure)
    elif kind == "result":
        result = _result(rng, words, tool)
        yield "user", f"result: {_json(result)}"
        told = ", ".join(f"{key} {value}" for key, value in result["found"].items())
        first = next(iter(values.values()))
        yield "assistant", f"done: {first}: {told}."


def _and_then(
    rng: random.Random, words: _Words, language: int, request: str, tool: _Tool,
    ways: tuple[tuple[str, ...], ...],
) -> tuple[str, dict[str, str | int | float]]:
    """The request with one more for `tool`, joined in one of the `ways` of its language; the new values."""
    values = _values(rng, words, tool)
    then = _request(rng, language, tool, values, False)
    return request.rstrip(".?") + rng.choice(ways[language]) + then[:1].lower() + then[1:], values


def _result(rng: random.Random, words: _Words, tool: _Tool) -> dict[str, Any]:
    fields = rng.sample(FIELDS + KEYS if words.mix == "words" else FIELDS, rng.randint(1, 2))
    found = {key: rng.choice((rng.randint(1, 999), _value(rng, words, "word"))) for key in fields}
    return {"tool": tool.name, "found": found}


def _offered(rng: random.Random, words: _Words) -> list[_Tool]:
    """Two to four tools of different names; some share their verb or noun with the first."""
    tools: list[_Tool] = []
    wanted = rng.choice((2, 2, 3, 3, 4)) if words.everyday else rng.randint(2, 4)
    while len(tools) < wanted:
        tool = _tool(rng, words)
        if tools and rng.random() < 0.4:
            first = tools[0]
            tool = _tool(rng, words, **rng.choice(({"verb": first.verb}, {"noun": first.noun})))
        if tool.name not in {other.name for other in tools}:
            tools.append(tool)
    rng.shuffle(tools)
    return tools


def _other(rng: random.Random, words: _Words, tools: list[_Tool]) -> _Tool:
    """A tool that is not offered; now and then only its verb or its noun is another one's."""
    while True:
        near = rng.choice(tools)
        share: dict[str, str] = rng.choice(({}, {}, {"verb": near.verb}, {"noun": near.noun}))
        tool = _tool(rng, words, **share)
        if tool.name not in {other.name for other in tools}:
            return tool


def _tool(rng: random.Random, words: _Words, verb: str = "", noun: str = "") -> _Tool:
    while True:
        name = f"{verb or rng.choice(list(VERBS))}_{noun or rng.choice(list(NOUNS))}"
        if name not in words.taken:
            break
        if verb and noun:
            verb = ""
    parameters = {}
    for parameter in rng.sample(list(PARAMETERS), rng.choice((1, 1, 1, 2, 2, 3))):
        kind, _, source = PARAMETERS[parameter]
        if source in CHOICES:
            kind = "|".join(rng.sample(CHOICES[source], rng.randint(2, 5)))
        elif source == "choice" or (kind == "string" and rng.random() < 0.08):
            kind = "|".join(dict.fromkeys(words.lexicon.draw(rng, rng.randint(2, 4))))
        parameters[parameter] = kind
    optional = parameter if len(parameters) > 1 and rng.random() < 0.25 else ""
    verb, _, noun = name.partition("_")
    return _Tool(verb, noun, parameters, optional)


def _signature(tool: _Tool) -> dict:
    shown = {f"{name}?" if name == tool.optional else name: kind for name, kind in tool.parameters.items()}
    return {"name": tool.name, "parameters": shown}


def _values(rng: random.Random, words: _Words, tool: _Tool) -> dict[str, str | int | float]:
    values: dict[str, str | int | float] = {}
    for name, kind in tool.parameters.items():
        if name == tool.optional and rng.random() < 0.5:
            continue
        values[name] = (
            rng.choice(kind.split("|")) if "|" in kind else _value(rng, words, PARAMETERS[name][2])
        )
    return values


def _asked(
    rng: random.Random, words: _Words, language: int, tool: _Tool, values: dict[str, str | int | float],
    alone: bool,
) -> str:
    """The request; in everyday words where these are wanted and no other tool offered has the noun."""
    if not words.everyday:
        return _request(rng, language, tool, values, alone)
    if alone and tool.noun in HINTS and rng.random() < 0.5:
        told = " ".join(_said(value) for value in values.values())
        place = rng.choice((" ", " ở " if language == 0 else " in ", ", "))
        frame = rng.choice(HINT_FRAMES[language])
        hint = rng.choice(HINTS[tool.noun][language])
        text = frame.format(h=hint, a=told if frame.startswith("{a}") else (place + told if told else ""))
        text = text.lstrip(" ,")
        text = text[:1].upper() + text[1:]
    else:
        text = _request(rng, language, tool, values, alone)
    before, after = POLITE[language]
    if rng.random() < 0.12:
        text = rng.choice(before) + text
    return text + rng.choice(after) if rng.random() < 0.12 else text


def _request(
    rng: random.Random, language: int, tool: _Tool, values: dict[str, str | int | float], alone: bool
) -> str:
    """The request in words; `alone`: no other tool that is offered has the noun."""
    named = rng.random() < (0.4 if len(values) == 1 else 0.7)  # else the values stand there without a word
    parts = []
    for name in sorted(values, key=lambda _: rng.random()) if named else values:
        label = PARAMETERS[name][1][language]
        parts.append(f"{label} {_said(values[name])}" if named else _said(values[name]))
    told = rng.choice((", ", " ", " ở " if language == 0 else " in ")) + rng.choice((", ", " ")).join(parts)
    frame = rng.choice((NOUN_FRAMES if alone and rng.random() < 0.25 else FRAMES)[language])
    verb, noun = rng.choice(VERBS[tool.verb][language]), NOUNS[tool.noun][language]
    text = frame.format(v=verb, n=noun, a=told if parts else "")
    return text[:1].upper() + text[1:] if rng.random() < 0.9 else text


def _said(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _call(tool: _Tool, values: dict[str, str | int | float]) -> str:
    ordered = {name: values[name] for name in tool.parameters if name in values}
    return _json({"use": tool.name, "with": ordered})


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _value(rng: random.Random, words: _Words, kind: str) -> str | int | float:
    if kind == "integer":
        return rng.choice((rng.randint(1, 99), rng.randint(100, 9999)))
    if kind == "number":
        return rng.choice((rng.randint(1, 9999), rng.randint(1, 999) / 10, rng.randint(1, 99) * 1000))
    if kind == "letters":
        return "".join(rng.choices(LETTERS, k=3))
    if kind == "code":
        letters = "".join(rng.choices(LETTERS, k=rng.randint(0, 3)))
        return letters + (f"{rng.randint(10, 99_999)}" if rng.random() < 0.75 or not letters else "")
    if kind == "date":
        return f"{rng.randint(1, 28)}/{rng.randint(1, 12)}"
    if kind == "time":
        return f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"
    if kind == "name" or rng.random() < 0.2:
        return "".join(rng.sample(terms.SYLLABLES.split(), rng.randint(2, 3))).capitalize()
    return " ".join(words.lexicon.draw(rng, rng.randint(2, 3) if kind == "words" else rng.randint(1, 2)))
