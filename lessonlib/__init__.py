"""Companion package of the course: one flat module for each step that a learner takes.

`import lessonlib` loads nothing heavy; `lessonlib.data`, `lessonlib.training` and the others are imported
when they are first named, and they in turn load torch or transformers when a function needs them.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

# In the order in which a lesson meets them. A module may import those before it, never those after it.
MODULES = (
    "language",
    "paths",
    "unsloth_backend",
    "runtime",
    "llama_cpp_tools",
    "extras",
    "hub_errors",
    "models",
    "reading",
    "cleaning",
    "placeholders",
    "data",
    "hub_chats",
    "text_column",
    "formatting",
    "chat",
    "lora",
    "special_tokens",
    "quantisation",
    "activations",
    "memory",
    "loopback",
    "wandb_log",
    "tracking",
    "checkpoints",
    "preflight",
    "training",
    "metrics",
    "scoring",
    "likelihood",
    "evaluation",
    "tools",
    "hub_calls",
    "parity",
    "export",
    "gguf_source",
    "gguf_convert",
    "gguf",
    "gguf_parity",
    "serving",
    "apps",
    "licences",
    "model_card",
    "publish_checks",
    "publish_errors",
    "publish",
    "charts",
    "call_charts",
    "live",
    "views",
    "tool_panel",
    "exercises",
)


def __getattr__(name: str) -> ModuleType:
    if name in MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
