"""Companion package of the course: one room for each step that a learner takes, in this order.

`import lessonlib` loads nothing heavy; `lessonlib.data`, `lessonlib.training` and the others are imported
when they are first named, and they in turn load torch or transformers when a function needs them. What a room
offers to lessons stands in its `__all__`; its files are for whoever wants to read on.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

# The one place that says which room comes first. A room may import those before it, never those after it.
ROOMS = (
    "runtime",
    "models",
    "data",
    "formatting",
    "lora",
    "training",
    "evaluation",
    "tools",
    "export",
    "serving",
    "views",
    "exercises",
)


def __getattr__(name: str) -> ModuleType:
    if name in ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
