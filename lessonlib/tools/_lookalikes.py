"""Names of strangers: what they look like, what was probably meant, and how to show them safely.

A name is never mended on the quiet. `gеt_weather` with a Cyrillic "е" is another name than `get_weather`; it
stays unknown, and whoever wrote it is asked whether the other was meant.
"""

import difflib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# Letters of other alphabets in the shape of a Latin one, after lower-casing. NFKC already turns full-width
# and mathematical letters into plain ones; it leaves these alone, for they are letters in their own right.
_LOOKS_LIKE = str.maketrans(
    "аеорсухіјѕһԁкмтвԛԝ" "αορυνικτ" "ɡı",  # Cyrillic, Greek, phonetic
    "aeopcyxijshdkmtbqw" "aopuvikt" "gi",
)


def skeleton(name: str) -> str:
    """What is left of a name when only its shape counts: lower case, Latin, letters and digits alone."""
    plain = unicodedata.normalize("NFKC", name[:200]).casefold().translate(_LOOKS_LIKE)
    return "".join(letter for letter in unicodedata.normalize("NFD", plain) if letter.isalnum())


def closest(name: str, known: Sequence[str]) -> str | None:
    """The known name that this one looks like, else the one that is spelt nearly so, else None."""
    shapes = {skeleton(each): each for each in known}
    near = difflib.get_close_matches(skeleton(name), list(shapes), n=1, cutoff=0.6)
    return shapes[near[0]] if near else None


def shown(value: Any, most: int = 60) -> str:
    """A value as JSON on one line, of about `most` characters, with nothing in it that cannot be seen."""
    short = value[:most] + "…" if isinstance(value, str) and len(value) > most else value
    line = json.dumps(short, ensure_ascii=False, default=str)
    line = line if isinstance(value, str) or len(line) <= most else line[:most] + "…"
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in line)


def pathway(parts: Iterable[Any], start: str = "") -> str:
    """Where in a value something stands: ["stops", 1, "name"] is "stops[1].name"."""
    path = start
    for part in parts:
        short = f"[{part}]" if isinstance(part, int) else shown(part)[1:-1]
        path += short if isinstance(part, int) or not path else f".{short}"
    return path
