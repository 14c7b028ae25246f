"""The greedy answer of GPT4All's own backend, in a process of its own: this file, run as a module."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lessonlib.runtime._language import LessonError
from lessonlib.serving._llama import CONTEXT, Message, chat_format, checked_file, checked_messages, threads

_GPT4ALL = "gpt4all==2.8.2"


def ask_gpt4all(
    gguf: str | os.PathLike,
    messages: Sequence[Message],
    *,
    max_tokens: int = 64,
    context: int = CONTEXT,
    time_limit: float = 300,
) -> str:
    """The greedy answer of GPT4All's own backend, through its Python package.

    That package reads no chat template from the file. It takes a system prompt, whose special tokens it
    recognises, and a template for one question with {0} in its place. So the file's template is rendered here
    and cut at the last question: what stands before it goes in as system prompt, earlier turns included, what
    follows it as template. The opening token (BOS) is left out, since the backend puts one itself.

    Of a file in f32 or f16 the answers are llama.cpp's. Of a quantised one they may part, for GPT4All's
    llama.cpp is of 2024 and rounds otherwise there. It also ends an answer only at the file's end-of-sequence
    token, or before "### Human", "### Assistant" and the like, and shows other special tokens as text. It
    runs in a process of its own, because on a file that it does not know it ends the process.

    Args:
        gguf, messages, max_tokens, context: as in `ask_llama_cpp`.
        time_limit: seconds until the process is ended.

    Returns:
        The answer.

    Raises:
        LessonError: a missing package; a file or messages that cannot be used; a conversation longer than the
            context; the backend ended its process, ran out of time or could not load the file.
    """
    file, asked = checked_file(gguf), checked_messages(messages)
    if find_spec("gpt4all") is None:
        raise LessonError(
            "GPT4All is not installed. Install it: python -m pip install {gpt4all}", gpt4all=_GPT4ALL,
        )
    written = chat_format(file)
    mark = "\x00"  # a template that looks at the text would be thrown by a real question, never by this
    rendered = written.render([*asked[:-1], {"role": "user", "content": mark}])
    before, after = rendered.removeprefix(written.bos).split(mark)
    task = {
        "file": str(file), "before": before, "after": after, "question": asked[-1]["content"].strip(),
        "max_tokens": max_tokens, "context": context, "threads": threads(),
    }  # fmt: skip
    command = [sys.executable, "-m", "lessonlib.serving._gpt4all"]
    try:
        done = subprocess.run(
            command, input=json.dumps(task), capture_output=True, text=True, timeout=time_limit,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LessonError(
            "GPT4All was not done after {time_limit:g} seconds. Lower max_tokens or raise time_limit.",
            time_limit=time_limit,
        ) from None
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1:] or ["-"]
        raise LessonError(
            "GPT4All's library ended its process over {file} (code {returncode}): {why}. The llama.cpp in "
            "it is of 2024 and does not know newer architectures; try ask_llama_cpp.",
            file=file, returncode=done.returncode, why=why[0],
        )
    said = json.loads(done.stdout)
    if said["problems"]:
        problem = said["problems"][0]
        raise LessonError(
            "GPT4All refuses this conversation: {problem} Shorten it, or raise context (now {context} "
            "tokens).",
            problem=problem, context=context,
        )
    return str(said["answer"])


def _other_process() -> None:
    """A task as JSON on standard input, the answer as JSON on standard output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # the library prints as it likes
        task = json.loads(sys.stdin.buffer.read())
        from gpt4all import GPT4All

        file = Path(task["file"])
        model = GPT4All(
            file.name, model_path=file.parent, allow_download=False, device="cpu", n_threads=task["threads"],
            n_ctx=task["context"],
        )  # fmt: skip
        problems: list[str] = []

        def note(token: int, piece: str) -> bool:
            if token < 0:  # the backend gives its errors out as if the model had said them
                problems.append(piece)
            return token >= 0

        after = task["after"].replace("{", "{{").replace("}", "}}")
        with model.chat_session(task["before"], "{0}" + after):
            answer = model.generate(
                task["question"], max_tokens=task["max_tokens"], temp=0.0, top_k=1, repeat_penalty=1.0,
                n_batch=128, callback=note,
            )  # fmt: skip
        json.dump({"answer": answer, "problems": problems}, answers)


if __name__ == "__main__":
    _other_process()
