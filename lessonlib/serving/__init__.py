"""An exported GGUF file answers: in llama.cpp, in GPT4All's backend, and over HTTP as OpenAI's service does.

All answers are greedy: the likeliest token each time, nothing drawn, nothing penalised, so that the same file
gives the same answer each time. The prompt is always what the chat template in the file makes of the
messages. Whether the file is the model that was trained is the question of `lessonlib.gguf_parity`.
"""

from lessonlib.serving.client import chat, completion
from lessonlib.serving.formats import ChatFormat, chat_format
from lessonlib.serving.gpt4all import ask_gpt4all
from lessonlib.serving.llama import ask_llama_cpp
from lessonlib.serving.server import llama_server

__all__ = [
    "ChatFormat",
    "ask_gpt4all",
    "ask_llama_cpp",
    "chat",
    "chat_format",
    "completion",
    "llama_server",
]
