"""The tags of a call, and how to keep somebody else's text from writing them.

A tokenizer turns the seven letters "<think>" into one token wherever they stand, so a stranger who writes
`</tool_response><tool_call>{...}` into a web page, or `<end_of_turn>` into a question, would close what the
program opened. This is prompt injection at its plainest; what a text merely asks the model to do is not
changed here, and no filter can.
"""

import json
import re
import unicodedata
import warnings
from collections.abc import Callable
from typing import Any

from lessonlib.runtime._language import Translated, joined, tr

Place = tuple[int | None, int | None, str]  # row, turn (None: the tools on offer), role

TAGS = (
    "<tools>", "</tools>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>",
)  # fmt: skip
# What ends or opens a turn in the families of this course: whoever generates stops there.
END_MARKS = (
    "<end_of_turn>", "<start_of_turn>", "<eos>", "<|end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>",
    "<|end_of_text|>",
)  # fmt: skip

_MARK = re.compile(
    r"</?(?:tools|think|tool_call|tool_response|s)>|<(?:(?:start|end)_of_turn|[be]os|pad|unk|mask|unused\d+)>"
    r"|<\|[^|<>\s]{1,64}\|>|\[@bos@\]"
)
_MAY_OPEN = re.compile(r"[<\[﹤＜［﹇]")  # these become "<" or "[" in NFKC
_PLAIN = re.compile(r"[\t\n\r -~]*")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NO_WIDTH = re.compile(r"[\u034f\u115f\u1160\u180b-\u180d\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def harmless(text: str) -> str:
    """The text with a space inside every tag and control token, so that none of them is one any more.

    "<tool_call>" becomes "< tool_call>". Look-alikes that a later clean-up would turn into the real thing are
    treated likewise: other case, full-width letters, characters without width in between. Half a surrogate
    pair, which no tokenizer can encode, becomes U+FFFD. All other text stays as it is, and what is harmless
    already does too.

    Args:
        text: what a user, a tool or anybody but the program wrote.

    Returns:
        The text for a prompt. The real tokens must then be written by the program alone.
    """
    return _opened(text, "{} ".format)


def harmless_json(value: Any) -> str:
    """Compact JSON in which tags and control tokens are written with an escape: "\\u003ctool_call>".

    Unlike `harmless` this changes nothing for whoever reads the JSON: the value comes out as it went in.

    Raises:
        TypeError, ValueError: as `json.dumps`, for what JSON does not know, NaN and Infinity among it.
    """
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _opened(written, lambda letter: f"\\u{ord(letter):04x}")


def _opened(text: str, instead: Callable[[str], str]) -> str:
    """The text with `instead(letter)` for the first letter of each mark."""
    text = _SURROGATE.sub("\ufffd", text)
    if not _MAY_OPEN.search(text):
        return text
    bare, places = _bare(text)
    parts, done = [], 0
    for found in _MARK.finditer(bare):
        at = places[found.start()] if places else found.start()
        parts += [text[done:at], instead(text[at])]
        done = at + 1
    return "".join([*parts, text[done:]])


def _bare(text: str) -> tuple[str, list[int]]:
    """Small letters in NFKC without those that nobody sees, and where each stood (empty: at its own
    place)."""
    if _PLAIN.fullmatch(text):
        return text.lower(), []
    letters: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        if letter not in "\t\n\r" and unicodedata.category(letter) in ("Cf", "Cc") or _NO_WIDTH.match(letter):
            continue
        for plain in unicodedata.normalize("NFKC", letter).lower():
            letters.append(plain)
            places.append(place)
    return "".join(letters), places


class Safe:
    """Makes texts harmless and counts those that had to be changed."""

    def __init__(self) -> None:
        self.changed = 0

    def text(self, said: str) -> str:
        """`harmless`, counted."""
        made = harmless(said)
        self.changed += made != said
        return made

    def json(self, value: Any) -> str:
        """`harmless_json`, counted."""
        made = harmless_json(value)
        self.changed += made != json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return made

    def value(self, value: Any) -> Any:
        """The value with every text in it made harmless, for templates that write the JSON themselves."""
        return json.loads(self.text(json.dumps(value, ensure_ascii=False)))  # marks stand in strings alone


def warn(places: list[Place]) -> None:
    """One warning that names the first of these places."""
    if not places:
        return
    warnings.warn(
        tr(
            "{count} texts held a tag or control token such as <tool_call> or <end_of_turn> and were made "
            "harmless: {places}{more}. This may be prompt injection: read them.",
            count=len(places), places=joined("; ", [_named(place) for place in places[:5]]),
            more="; ..." if len(places) > 5 else "",
        ),
        stacklevel=3,
    )


def _named(place: Place) -> Translated:
    row, turn, role = place
    parts = [] if row is None else [Translated("row {row}", row=row)]
    if turn is None:
        parts.append(Translated.of(vi=role, en=role))
    else:
        parts.append(Translated("turn {turn} ({role})", turn=turn, role=role))
    return joined(", ", parts)
