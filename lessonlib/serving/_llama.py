"""A GGUF file in llama.cpp, through llama-cpp-python: how it wants conversations written, and its answer.

A GGUF file carries the chat template that the tokenizer had. Every program that runs the file reads it there
or replaces it; so what the file itself says is the measure for all of them.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    from llama_cpp import Llama

Message = Mapping[str, str]
CONTEXT = 2048  # tokens of a conversation with its answer
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
    with _opened(file, vocab_only=True) as llama:
        return _format_of(llama, file)


@contextmanager
def _opened(file: Path, **settings: Any) -> "Iterator[Llama]":
    """A file open in llama-cpp-python, which prints nothing meanwhile."""
    llama_cpp_tools.check_packages()
    from llama_cpp import Llama

    with llama_cpp_tools.errors_kept() as said:
        try:
            llama = Llama(str(file), verbose=False, **settings)
        except Exception as error:  # also what Jinja raises for a template that it cannot parse
            reason = next((line for line in said if "error loading" in line), " ".join(said) or error)
            raise LessonError(
                "llama.cpp cannot open {file}: {reason}. The file may be cut short (a full disk, a broken "
                "download): compare its size and export or download it again.",
                file=file, reason=reason,
            ) from error
        try:
            yield llama
        finally:
            llama.close()


def _format_of(llama: "Llama", file: Path) -> ChatFormat:
    import llama_cpp

    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)

    def word(token: int) -> str:
        return llama_cpp.llama_vocab_get_text(vocabulary, token).decode() if token >= 0 else ""

    template = llama.metadata.get("tokenizer.chat_template")
    if not template:
        raise LessonError(
            "{file} has no chat template, so no program knows how to write a conversation for it. Merge and "
            "export again with the tokenizer of the instruct model (tokenizer.chat_template).",
            file=file,
        )
    eos = word(llama.token_eos())
    every = range(llama.n_vocab())
    ends = [word(token) for token in every if llama_cpp.llama_vocab_is_eog(vocabulary, token)]
    return ChatFormat(template, word(llama.token_bos()), eos, tuple(dict.fromkeys([eos, *ends])))


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


def ask_llama_cpp(
    gguf: str | os.PathLike,
    messages: Sequence[Message],
    *,
    max_tokens: int = 64,
    context: int = CONTEXT,
) -> str:
    """The greedy answer of llama.cpp, through llama-cpp-python and the file's own chat template.

    Args:
        gguf: the file.
        messages: role and content of each; the last is the user's.
        max_tokens: the longest answer.
        context: the longest conversation with its answer, in tokens; it sizes the key-value cache.

    Returns:
        The answer, without the token that ended it.

    Raises:
        LessonError: a missing package; a file or messages that cannot be used; a conversation longer than the
            context.
    """
    file, asked = checked_file(gguf), checked_messages(messages)
    cores = threads()
    with _opened(file, n_ctx=context, n_threads=cores, n_threads_batch=cores) as llama:
        prompt = _format_of(llama, file).render(asked)
        tokens = llama.tokenize(prompt.encode(), add_bos=False, special=True)  # the template has put BOS
        if len(tokens) >= context:
            raise LessonError(
                "The conversation has {tokens} tokens, which the context of {context} does not hold. Shorten "
                "it, or raise context.",
                tokens=len(tokens), context=context,
            )
        reply: Any = llama.create_completion(
            tokens, temperature=0.0, repeat_penalty=1.0, max_tokens=max_tokens
        )
        return str(reply["choices"][0]["text"])


def threads() -> int:
    """What OMP_NUM_THREADS says, else the processor's cores, four at most: more do little for one answer."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) else min(4, os.cpu_count() or 1)
