"""What a GGUF file says of conversations: its chat template, its special tokens, and where an answer ends.

A GGUF file carries the chat template that the tokenizer had. Every program that runs the file reads it there
or replaces it; so what the file itself says is the measure for all of them.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError

Message = Mapping[str, str]
_ROLES = ("system", "user", "assistant")
_MAGIC = b"GGUF"


@dataclass(frozen=True)
class ChatFormat:
    """How a file wants conversations written.

    Args:
        template: the Jinja template, as the file has it.
        bos: text of the token that opens a text.
        eos: text of the end-of-sequence token.
        stops: texts of all tokens at which llama.cpp ends an answer, `eos` first.
    """

    template: str
    bos: str
    eos: str
    stops: tuple[str, ...]

    def render(
        self, messages: Sequence[Message], *, ask: bool = True, options: Mapping[str, Any] | None = None
    ) -> str:
        """The conversation as the template writes it, rendered as llama-cpp-python does.

        Args:
            messages: role and content of each.
            ask: go on to where the assistant's answer begins.
            options: further variables of the template, such as {"date_string": "26 Jul 2024"}.

        Raises:
            LessonError: the template refuses the conversation or is no valid Jinja.
        """
        from jinja2 import TemplateError

        try:
            write = _formatter(self.template, self.eos, self.bos, ask)
            said: Any = [dict(message) for message in messages]
            return str(write(messages=said, **(options or {})).prompt)
        except (TemplateError, ValueError) as error:  # the template's own raise_exception is a ValueError
            raise LessonError(
                "The chat template in the GGUF file refuses this conversation: {error}", error=error,
            ) from error


@lru_cache(maxsize=16)
def _formatter(template: str, eos: str, bos: str, ask: bool) -> Any:
    """llama-cpp-python's renderer of a template, which takes much longer to make than to use."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    return Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos, add_generation_prompt=ask)


def chat_format(gguf: str | os.PathLike) -> ChatFormat:
    """The chat format of a GGUF file; its weights are not loaded.

    Args:
        gguf: the file.

    Raises:
        LessonError: llama-cpp-python is missing; there is no such file, or it is no GGUF; llama.cpp cannot
            open it; it has no chat template.
    """
    file = checked_file(gguf)
    llama_cpp_tools.check_packages()
    import llama_cpp

    # Not through the class Llama: it would make a context, and llama.cpp warns of one without weights.
    settings = llama_cpp.llama_model_default_params()
    settings.vocab_only = True
    with llama_cpp_tools.errors_kept() as said:
        model = llama_cpp.llama_model_load_from_file(os.fsencode(file), settings)
    if not model:
        raise unreadable(file, said)
    try:
        return of_model(model, file)
    finally:
        llama_cpp.llama_model_free(model)


def of_model(model: Any, file: Path) -> ChatFormat:
    """The chat format of a model that llama.cpp has open (a pointer), which it read from `file`."""
    import llama_cpp

    vocabulary = llama_cpp.llama_model_get_vocab(model)

    def word(token: int) -> str:
        return llama_cpp.llama_vocab_get_text(vocabulary, token).decode() if token >= 0 else ""

    template = llama_cpp.llama_model_chat_template(model, None)
    if not template:
        raise LessonError(
            "{file} has no chat template, so no program knows how to write a conversation for it. Merge and "
            "export again with the tokenizer of the instruct model (tokenizer.chat_template).",
            file=file,
        )
    eos = word(llama_cpp.llama_vocab_eos(vocabulary))
    every = range(llama_cpp.llama_vocab_n_tokens(vocabulary))
    ends = [word(token) for token in every if llama_cpp.llama_vocab_is_eog(vocabulary, token)]
    stops = (eos, *(end for end in ends if end != eos))
    return ChatFormat(template.decode(), word(llama_cpp.llama_vocab_bos(vocabulary)), eos, stops)


def checked_file(gguf: str | os.PathLike) -> Path:
    """The path of a GGUF file, absolute, after a look at its first four bytes.

    Raises:
        LessonError: it is a folder (an adapter, a merged model), it is not there, or it is no GGUF.
    """
    path = Path(gguf).expanduser().absolute()
    if path.is_dir():
        raise _is_folder(path)
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.gguf"))
        there = ", ".join(near) or "-"
        raise LessonError(
            "There is no file {path}. The .gguf files in that folder: {there}. Export GGUF first "
            "(lessonlib.export.make_gguf), or mend the name.",
            path=path, there=there,
        )
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise LessonError(
            "{path} is no GGUF file: it begins with {start!r} instead of {magic!r}. A download may be "
            "broken or only a Git LFS pointer; download or export it again.",
            path=path, start=start, magic=_MAGIC,
        )
    return path


def checked_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Role and content of each message of a conversation that waits for an answer.

    Raises:
        LessonError: no messages, a message without text, an unknown role, or a last message that is not the
            user's.
    """
    if isinstance(messages, str | Mapping) or not messages:
        raise LessonError(
            "There are no messages. Pass a list such as {example}.",
            example='[{"role": "user", "content": "Hello"}]',
        )  # fmt: skip
    kept = []
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            raise LessonError(
                "Message {number}: there is no role {role!r}, only {roles}.",
                number=number, role=role, roles=", ".join(_ROLES),
            )
        if not isinstance(content, str) or not content.strip():
            raise LessonError(
                "Message {number} ({role}) has no text (its value is {content!r}).",
                number=number, role=role, content=content,
            )
        kept.append({"role": role, "content": content})
    if kept[-1]["role"] != "user":
        raise LessonError(
            "The last message is of the role {kept!r}, so there is no question to answer. The last one has "
            "to be the 'user'.",
            kept=kept[-1]["role"],
        )
    return kept


def unreadable(file: Path, said: Sequence[str]) -> LessonError:
    """For a file that begins like a GGUF and that llama.cpp cannot open all the same, with what it said."""
    reason = next((line for line in said if "error loading" in line), " ".join(said))
    return LessonError(
        "llama.cpp cannot open {file}: {reason}. The file may be cut short (a full disk, a broken "
        "download): compare its size and export or download it again.",
        file=file, reason=reason,
    )


def _is_folder(path: Path) -> LessonError:
    if (path / "adapter_config.json").is_file():
        return LessonError(
            "{path} is an adapter folder: only the LoRA matrices, without the base model. Merge it with "
            "export.merge, convert that with export.make_gguf, and pass the .gguf file here.",
            path=path,
        )
    inside = ", ".join(sorted(file.name for file in path.glob("*.gguf"))) or "-"
    return LessonError(
        "{path} is a folder; what is needed is the path of one .gguf file. There are in it: {inside}.",
        path=path, inside=inside,
    )
