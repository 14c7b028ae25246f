"""An exported GGUF file answers: in llama.cpp, in GPT4All's backend, over HTTP like OpenAI's, in apps.

All answers are greedy: the likeliest token each time, nothing drawn, nothing penalised, so that the same file
gives the same answer each time. The prompt is always what the chat template in the file makes of the
messages. Whether the file is the model that was trained is the question of `lessonlib.export.verify_gguf`.
"""

from lessonlib.serving._apps import write as write_apps
from lessonlib.serving._gpt4all import ask_gpt4all
from lessonlib.serving._llama import ask_llama_cpp
from lessonlib.serving._server import chat, llama_server

__all__ = ["ask_gpt4all", "ask_llama_cpp", "chat", "llama_server", "write_apps"]
