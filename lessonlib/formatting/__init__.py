"""Rows and conversations become token ids and labels, and what a `text` column hides is shown.

It knows tokenizers and chat templates, and nothing of the model that will learn from them.
"""

from lessonlib.formatting._chat import encode as encode_chats
from lessonlib.formatting._chat import fold_system
from lessonlib.formatting._chat import prompts as chat_prompts
from lessonlib.formatting._chat import usable as usable_chats
from lessonlib.formatting._rows import encode, to_prompt_completion
from lessonlib.formatting._text_column import check_text, text_loss

__all__ = [
    "chat_prompts",
    "check_text",
    "encode",
    "encode_chats",
    "fold_system",
    "text_loss",
    "to_prompt_completion",
    "usable_chats",
]
