"""Texts on which two tokenizers that are not the same come apart, and conversations for two chat templates.

Both are made here by rule, without a network: the same call gives the same texts on every machine. Last comes
which of them a vocabulary cannot spell.
"""

import json
import random
import unicodedata
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

from lessonlib.formatting._rows import byte_letters
from lessonlib.runtime._paths import dataset_dir

COUNT = 10_000
SPACE = "▁"  # what SentencePiece writes for a space
Message = dict[str, str]

_ONSETS = (
    "", "b", "c", "ch", "d", "đ", "g", "gh", "gi", "h", "kh", "l", "m", "n", "ng", "nh", "ph", "qu", "r", "s",
    "t", "th", "tr", "v", "x",
)  # fmt: skip
_VOWELS = (
    "a", "ă", "â", "e", "ê", "i", "o", "ô", "ơ", "u", "ư", "y", "ia", "iê", "oa", "oai", "uô", "ươ", "ươi",
    "yê", "uyê",
)  # fmt: skip
_CODAS = ("", "", "c", "ch", "m", "n", "ng", "nh", "p", "t", "i", "u")
_TONES = ("", "\u0300", "\u0301", "\u0303", "\u0309", "\u0323")  # level, grave, acute, tilde, hook, dot
_ENGLISH = (
    "I'm", "you're", "it's", "we'll", "they'd", "I've", "don't", "THEY'RE", "It'S", "can't", "Shop's",
    "O'Neill", "order", "refund", "delivery", "Monday", "token", "model", "fine-tuning", "layer", "the",
    "and", "of", "gradient", "loss", "adapter", "e.g.", "U.S.", "naïve", "café", "Zürich", "3rd", "x-ray",
    "C++", ".NET", "http://shop.example/a?b=1&c=2", "me@mail.example", "co-operate", "(see below)", "[1]",
    '"quoted"',
)  # fmt: skip
_MARKS = (
    " ", " ", " ", ", ", ". ", "! ", "? ", "; ", ": ", " - ", "... ", "\n", "\n\n", " “", "” ", "/", "_",
)  # fmt: skip
_PEOPLE = ("👍", "👋", "🙏", "🧑", "👩", "👨", "💪", "🤝", "🏃", "🧒")
_SKINS = ("", "🏻", "🏼", "🏽", "🏾", "🏿")
_THINGS = ("😀", "😭", "❤️", "✈️", "☎️", "🔥", "🎉", "🛒", "📦", "💳", "🐝", "🍜", "⚠️", "✅", "💻", "🎓", "🚒")
_JOINER = "\u200d"
_CODE = (
    "def {a}({b}=None):\n    return {b} or []\n",
    "for (int {a} = 0; {a} < {n}; ++{a}) {{\n\t{b}[{a}] *= 2;\n}}",
    "SELECT {a}, COUNT(*) FROM {b} WHERE {a} >= {n} GROUP BY {a};",
    '{{"{a}": {{"{b}": [{n}, null, true]}}}}',
    "<div class=\"{a}\" id='{b}-{n}'>{n}</div>",
    "if __name__ == '__main__':\r\n    {a}(**{b})\r\n",
    "$ pip install {a}=={n}.0 && rm -rf ./{b}/*",
    "#include <{a}.h>\n\n\n#define {b} ({n} << 3)",
    "{a} = lambda {b}: {b}**2 if {b} != {n} else ~{b}",
    "`{a}` → `{b}` // TODO({n}): xóa dòng này",
    "\\frac{{{a}}}{{{b}_{{{n}}}}} \\leq \\sum_{{i=0}}^{{{n}}}",
    "{a}::{b}<'static, &mut {a}>()?;",
    "| {a} | {b} |\n|---|---:|\n| {n} | - |",
    "```python\n{a}\t= {n}  # {b}\n```",
    "@{a}.{b}\n{a}->{b}[{n}]??.{a} ||= -{n}",
)
_NAMES = (
    "x", "i", "self", "orderId", "user_name", "HTTPServer", "__init__", "số_đơn", "tmp2", "MAX_LEN",
    "donHàng", "a1b2", "z", "getElementById", "Ω", "camelCaseWord",
)  # fmt: skip
_DIGITS = ("0123456789",) * 3 + ("٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "²³½¼Ⅷ")
_GAPS = (
    " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\t\t", "\r", "\u00a0", "\u3000", "\u2009",
    "\u202f", "\u200b", "\u0085", "\u2028", "\ufeff", "\x0b", "\x0c",
)  # fmt: skip
# First and last letter of ranges whose characters Unicode has not changed for many years.
_SCRIPTS = (
    ("А", "я"), ("Α", "ώ"), ("א", "ת"), ("ا", "ي"), ("अ", "ह"), ("ก", "ฮ"), ("ぁ", "ん"), ("ァ", "ン"),
    ("一", "龥"), ("가", "힣"), ("ა", "ჰ"), ("Ա", "Ֆ"), ("À", "ÿ"), ("Ā", "ſ"), ("←", "⇿"), ("∀", "⋿"),
    ("─", "╿"), ("𝐀", "𝑧"), ("𓀀", "𓀿"),
)  # fmt: skip
_COMBINING = ("\u0301", "\u0323", "\u094d", "\u093f", "\u0e35", "\u0e48", "\u064e", "\u05b8", "\u3099")


def strings(count: int = COUNT) -> list[str]:
    """Texts to compare two tokenizers on: what tells them apart stands in places that nobody types by hand.

    In turn one of each kind: the course's own sentences, Vietnamese in NFC (one code point a letter), in NFD
    (letter and marks apart) and in both, English, emoji (joined, with skin tones, flags), code, digits,
    white space, other scripts, near misses of special tokens, and several of these in one text.

    Args:
        count: how many, 1 or more.

    Returns:
        `count` different texts, none empty, without a special token of any model of the course.
    """
    made: dict[str, None] = {}
    sources = [_endless(kind, random.Random(f"0/{kind.__name__}")) for kind in _KINDS]
    sources.append(_course(random.Random("0/course")))
    while len(made) < count:
        for source in sources:
            made[next(source)] = None
    return list(made)[:count]


def conversations() -> list[tuple[list[Message], bool]]:
    """Conversations to render with two chat templates, each with whether an answer is to be opened.

    With and without a system message, one turn and several, texts with white space at their ends, with braces
    and with angle brackets, in both languages.
    """
    system = {"role": "system", "content": "Bạn là nhân viên hỗ trợ của một cửa hàng trực tuyến."}
    ask = {"role": "user", "content": "Đơn hàng #95644 của mình đang ở đâu?"}
    reply = {"role": "assistant", "content": "Dạ, đơn #95644 sẽ tới trong hôm nay ạ. 📦"}
    more = {"role": "user", "content": "  Could you \"check\" {{ order }} <b>again</b>?\n\n"}
    done = {"role": "assistant", "content": "\nYes, one moment: {% raw %} 1 < 2 & 3 > 2.  "}
    return [
        ([ask], True),
        ([ask], False),
        ([system, ask], True),
        ([system, ask, reply], False),
        ([ask, reply, more], True),
        ([ask, reply, more, done], False),
        ([system, ask, reply, more, done, ask], True),
        ([{"role": "system", "content": "  "}, more], True),
    ]


def _endless(kind: Callable[[random.Random], str], dice: random.Random) -> Iterator[str]:
    while True:
        if made := kind(dice):
            yield made


def _course(dice: random.Random) -> Iterator[str]:
    """What the lesson's own datasets say, as it stands and in NFD; after that, two sentences in one."""
    said: dict[str, None] = {}
    for name in ("customer_support_vi", "counseling_vi"):
        for line in (dataset_dir(name) / "train.jsonl").read_text(encoding="utf-8").splitlines():
            said.update((message["content"], None) for message in json.loads(line)["messages"])
    whole = list(said)
    dice.shuffle(whole)
    for sentence in whole:
        yield sentence
        yield unicodedata.normalize("NFD", sentence)
    while True:
        yield f"{dice.choice(whole)} {dice.choice(whole)}"


def _syllable(dice: random.Random) -> str:
    rhyme = dice.choice(_VOWELS)
    at = dice.randrange(len(rhyme)) + 1
    made = f"{dice.choice(_ONSETS)}{rhyme[:at]}{dice.choice(_TONES)}{rhyme[at:]}{dice.choice(_CODAS)}"
    return dice.choice((made, made, made, made.capitalize(), made.upper()))


def _joined(dice: random.Random, parts: list[str]) -> str:
    return "".join(part + dice.choice(_MARKS) for part in parts[:-1]) + parts[-1]


def _nfc(dice: random.Random) -> str:
    return unicodedata.normalize("NFC", _joined(dice, [_syllable(dice) for _ in range(dice.randint(2, 12))]))


def _nfd(dice: random.Random) -> str:
    return unicodedata.normalize("NFD", _nfc(dice))


def _nfc_and_nfd(dice: random.Random) -> str:
    """Each letter in one form or the other, as in text that was pasted together."""
    return "".join(unicodedata.normalize(dice.choice(("NFC", "NFD")), letter) for letter in _nfc(dice))


def _english(dice: random.Random) -> str:
    return _joined(dice, dice.choices(_ENGLISH, k=dice.randint(2, 14)))


def _emoji_piece(dice: random.Random) -> str:
    person = dice.choice(_PEOPLE) + dice.choice(_SKINS)
    form = dice.randrange(5)
    if form == 0:
        return person
    if form == 1:  # a profession: person, skin tone, joiner, thing
        return f"{dice.choice('🧑👩👨')}{dice.choice(_SKINS)}{_JOINER}{dice.choice('💻🎓🚒🍳🔧🚀🎨')}"
    if form == 2:  # a flag: two regional indicators
        return "".join(chr(0x1F1E6 + dice.randrange(26)) for _ in range(2))
    if form == 3:
        return dice.choice(("👨‍👩‍👧‍👦", "🏳️‍🌈", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️‍🔥", "👁️‍🗨️", "1️⃣", "#️⃣", "👩🏽‍❤️‍👨🏿"))
    return dice.choice(_THINGS)


def _emoji(dice: random.Random) -> str:
    ends = ("", "", " ", "!", "ạ", "ok")
    return "".join(_emoji_piece(dice) + dice.choice(ends) for _ in range(dice.randint(1, 6)))


def _code(dice: random.Random) -> str:
    lines = []
    for _ in range(dice.randint(1, 3)):
        a, b = dice.choices(_NAMES, k=2)
        line = dice.choice(_CODE).format(a=a, b=b, n=dice.randrange(10 ** dice.randint(1, 6)))
        lines.append(dice.choice(("", "    ", "\t", "        ")) + line)
    return "\n".join(lines)


def _numbers(dice: random.Random) -> str:
    digits = dice.choice(_DIGITS)
    runs = ("".join(dice.choices(digits, k=dice.randint(1, 13))) for _ in range(dice.randint(1, 5)))
    return dice.choice(("", "-", "+", "#", "$", "₫")).join(
        run + dice.choice((" ", ".", ",", "-", "/", ":", "%", "đ", "e", "x", "")) for run in runs
    )


def _white_space(dice: random.Random) -> str:
    parts = []
    for _ in range(dice.randint(1, 6)):
        parts.append("".join(dice.choices(_GAPS, k=dice.randint(1, 4))) * dice.randint(1, 3))
        parts.append(dice.choice(("", "đơn", "order", "12", "!", "👍", "Ạ", "x;")))
    return "".join(parts)


def _scripts(dice: random.Random) -> str:
    parts = []
    for _ in range(dice.randint(1, 5)):
        first, last = dice.choice(_SCRIPTS)
        letters = [chr(dice.randint(ord(first), ord(last))) for _ in range(dice.randint(1, 7))]
        if dice.random() < 0.3:
            letters.insert(1, dice.choice(_COMBINING))
        parts.append("".join(letters))
    return _joined(dice, parts)


def _near_misses(dice: random.Random) -> str:
    """What looks like a special token and is none, so that it has to be read as ordinary text."""
    name = dice.choice(("eot_id", "EOT_ID", "begin_of_text", "im_start", "user", "end header id", "ạ", ""))
    forms = ("<| {} |>", "<|{}>", "<{}|>", "|{}|", "< |{}|>", "<<{}>>", "[{}]", "<|{}|", "{}|>", "</{} >")
    made = dice.choice(("", "a", " ", "<")) + dice.choice(forms).format(name)
    return f"{made}{_syllable(dice)}{dice.randrange(100)}"


def _mixed(dice: random.Random) -> str:
    plain = (_nfc, _nfd, _english, _emoji, _code, _numbers, _white_space, _scripts)
    kinds = dice.choices(plain, k=dice.randint(2, 4))
    return "".join(kind(dice) for kind in kinds)


_KINDS = (
    _nfc, _nfd, _nfc_and_nfd, _english, _emoji, _code, _numbers, _white_space, _scripts, _near_misses, _mixed,
)  # fmt: skip


def unspelled(tokenizer: Any, texts: Sequence[str]) -> dict[int, set[int]]:
    """The texts that need a byte for which the vocabulary has no token.

    A vocabulary falls back on single bytes for what it has no token for. Some have less than 256 of them
    (that of SmolLM2), and then what happens to the others is nothing that an export could keep or lose:
    transformers drops them, or does something else of its own, and llama.cpp may abort.

    Args:
        tokenizer: of transformers; byte-level BPE, or SentencePiece with its byte fallback.
        texts: what is to be tokenised.

    Returns:
        Place of the text in `texts` -> the bytes that are missing for it. Empty for a whole vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    sentencepiece = SPACE in vocabulary  # no byte letter: byte-level BPE spells it with three
    names = {f"<0x{byte:02X}>": byte for byte in range(256)} if sentencepiece else byte_letters()
    missing = {byte for name, byte in names.items() if name not in vocabulary}
    if not missing:
        return {}
    known: Container[str] = vocabulary if sentencepiece else ()
    found = {}
    for at, text in enumerate(texts):
        if sentencepiece:  # a character with a token of its own needs no bytes
            text = text.replace(" ", SPACE)
        spelled = {byte for letter in set(text) if letter not in known for byte in letter.encode()}
        if lacking := spelled & missing:
            found[at] = lacking
    return found
