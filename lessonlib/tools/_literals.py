"""One JSON value read out of a text, or what a model writes in its place, without evaluating anything.

Models that have seen much Python write {'city': 'Huế', 'now': True,}: a literal that `json` refuses and
`ast.literal_eval` reads. Python's documentation warns that the latter can exhaust memory or stack on hostile
text (https://docs.python.org/3/library/ast.html#ast.literal_eval), and it cannot say where a value ends. So
here is a reader of its own: JSON (RFC 8259), and beyond it single quotes with Python's escapes, True, False,
None, and a comma before a closing bracket. It goes over the text once, nests at most _DEPTH deep and knows no
names, calls or operators: __import__('os') is just not a value.
"""

import json
import math
import re
from typing import Any

from lessonlib.runtime._language import Translated
from lessonlib.tools._lookalikes import shown

_DEPTH = 20
_DIGITS = 100  # of one number; Python itself refuses 4,301

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?(?![\w.])")
_WORD = re.compile(r"[+-]?\w{1,40}")
_QUOTED = {quote: re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*+){quote}", re.DOTALL) for quote in ('"', "'")}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "'": "'", "\\": "\\", "/": "/"}
_CONTROL = re.compile(r"[\x00-\x1f]")
_WORDS = {"true": True, "false": False, "null": None}
_PYTHON = {"True": True, "False": False, "None": None}
_NO_NUMBERS = ("nan", "inf", "infinity")


class NotRead(Exception):
    """Why no value can be read here; `str` says it in the language of the notebook.

    Args:
        english: the reason, as `Translated` takes it, or a `Translated`.
        values: what stands for its braces.
    """

    def __init__(self, english: str | Translated, /, **values: object) -> None:
        self.message = english if isinstance(english, Translated) else Translated(english, **values)
        super().__init__(self.message)


def read(text: str, start: int = 0) -> tuple[Any, int, list[str]]:
    """The value that begins at `start` (white space aside).

    Args:
        text: any text; what follows the value does not matter.
        start: where to begin.

    Returns:
        (value, end, repaired): a value as `json.loads` would give it; where it ends; what was tolerated, of
        "single_quotes", "python_words", "trailing_comma", "raw_control" and "python_escape".

    Raises:
        NotRead: anything else; and valid JSON that nests more than _DEPTH deep, names a key twice, or holds
            NaN, Infinity, a number beyond a float's range or of more than _DIGITS digits, or half a surrogate
            pair.
    """
    reader = _Reader(text, start)
    value = reader.value(0)
    return value, reader.at, list(dict.fromkeys(reader.repaired))


class _Reader:
    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at
        self.repaired: list[str] = []

    def value(self, depth: int) -> Any:
        self.skip()
        letter = self.peek()
        if letter == "{":
            return self.object(self.deeper(depth))
        if letter == "[":
            return self.array(self.deeper(depth))
        if letter in _QUOTED:
            return self.string()
        if letter.isdigit() or letter == "-":
            return self.number()
        return self.word()

    def object(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        while not self.closes("}", bool(made)):
            if self.peek() not in _QUOTED:
                raise self.wrong(Translated("a name needs double quotes"))
            key = self.string()
            if key in made:
                raise NotRead("the name {key} stands there twice", key=shown(key))
            self.skip()
            if self.peek() != ":":
                raise self.wrong(Translated("a colon is missing"))
            self.at += 1
            made[key] = self.value(depth)
        return made

    def array(self, depth: int) -> list[Any]:
        made: list[Any] = []
        while not self.closes("]", bool(made)):
            made.append(self.value(depth))
        return made

    def closes(self, bracket: str, begun: bool) -> bool:
        """Whether the bracket closes here; else the next item does begin here, its comma read."""
        self.skip()
        if self.peek() == bracket:
            self.at += 1
            return True
        if not begun:
            return False
        if self.peek() != ",":
            raise self.wrong(Translated("a comma or '{bracket}' is missing", bracket=bracket))
        self.at += 1
        self.skip()
        if self.peek() == bracket:
            self.repaired.append("trailing_comma")
            self.at += 1
            return True
        return False

    def string(self) -> str:
        quote = self.peek()
        found = _QUOTED[quote].match(self.text, self.at)
        if found is None:
            raise _cut_off()
        body = found[1]
        self.at = found.end()
        if quote == "'":
            self.repaired.append("single_quotes")
        if _CONTROL.search(body):
            self.repaired.append("raw_control")
        try:
            made = json.loads(f'"{body}"', strict=False)
        except ValueError:  # a quote or an escape that only Python knows
            made = self.unescaped(body, quote)
        if any("\ud800" <= letter <= "\udfff" for letter in made):
            raise NotRead("it holds half a surrogate pair, which is no character")
        return made

    def unescaped(self, body: str, quote: str) -> str:
        """The text of a string as Python would read it; escapes that stand for nothing are refused."""

        def letter(found: re.Match[str]) -> str:
            code = found[1] or found[2] or found[3]
            if code is not None and int(code, 16) <= 0x10FFFF:
                return chr(int(code, 16))
            if found[4] not in _LETTERS:
                raise NotRead("a string knows no escape {escape}", escape=shown(found[0]))
            return _LETTERS[found[4]]

        if quote == '"':
            self.repaired.append("python_escape")
        made = _ESCAPE.sub(letter, body)
        # Two \u escapes may be the halves of one letter.
        return made.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def number(self) -> int | float:
        found = _NUMBER.match(self.text, self.at)
        if found is None:
            return self.word()
        written = found[0]
        if len(written) > _DIGITS:
            raise NotRead("a number of more than {digits} digits", digits=_DIGITS)
        self.at = found.end()
        made = int(written) if written.lstrip("-").isdigit() else float(written)
        if not math.isfinite(made):
            raise NotRead("the number {written} is too large", written=written)
        return made

    def word(self) -> Any:
        found = _WORD.match(self.text, self.at)
        word = found[0] if found else ""
        if word.lstrip("+-").lower() in _NO_NUMBERS:
            raise NotRead("JSON knows no {word}", word=word)
        if word not in _WORDS and word not in _PYTHON:
            raise self.wrong(Translated("this is no JSON value"))
        if word in _PYTHON:
            self.repaired.append("python_words")
        self.at += len(word)
        return _WORDS[word] if word in _WORDS else _PYTHON[word]

    def deeper(self, depth: int) -> int:
        self.at += 1
        if depth >= _DEPTH:
            raise NotRead("it nests more than {depth} deep", depth=_DEPTH)
        return depth + 1

    def skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def peek(self) -> str:
        """The next letter; "" at the end."""
        return self.text[self.at : self.at + 1]

    def wrong(self, reason: Translated) -> NotRead:
        rest = self.text[self.at : self.at + 30]
        if not rest:
            return _cut_off()
        return NotRead("{reason}, at {rest}", reason=reason, rest=shown(rest))


def _cut_off() -> NotRead:
    return NotRead("the text ends before the value is closed (cut off?)")
