"""Rows: read with file, line and reason, cleaned by named steps, taken from the Hub, split, blanks filled.

What comes out is a `datasets.Dataset`. It knows nothing of tokens.
"""

from lessonlib.data._cleaning import clean
from lessonlib.data._hub_chats import BITEXT, BITEXT_VALUES, COUNSELING, from_bitext, from_counseling
from lessonlib.data._placeholders import fill as fill_placeholders
from lessonlib.data._placeholders import find as find_placeholders
from lessonlib.data._reading import read
from lessonlib.data._splits import from_hub, load_chats, load_splits, whole_commit

__all__ = [
    "BITEXT",
    "BITEXT_VALUES",
    "COUNSELING",
    "clean",
    "fill_placeholders",
    "find_placeholders",
    "from_bitext",
    "from_counseling",
    "from_hub",
    "load_chats",
    "load_splits",
    "read",
    "whole_commit",
]
