"""The greedy answer of llama.cpp itself, through llama-cpp-python."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError
from lessonlib.serving import _formats as formats
from lessonlib.serving._formats import Message, checked_file, checked_messages

CONTEXT = 2048  # tokens of a conversation with its answer


def ask_llama_cpp(
    gguf: str | os.PathLike,
    messages: Sequence[Message],
    *,
    max_tokens: int = 64,
    context: int = CONTEXT,
    template_options: Mapping[str, Any] | None = None,
) -> str:
    """The greedy answer of llama.cpp, through llama-cpp-python and the file's own chat template.

    Args:
        gguf: the file.
        messages: role and content of each; the last is the user's.
        max_tokens: the longest answer.
        context: the longest conversation with its answer, in tokens; it sizes the key-value cache.
        template_options: further variables of the chat template, the same as in training. Without
            {"date_string": ...} Llama 3.2's template writes the day's date into every prompt.

    Returns:
        The answer, without the token that ended it.

    Raises:
        LessonError: a missing package; a file or messages that cannot be used; a conversation longer than the
            context.
    """
    file, asked = checked_file(gguf), checked_messages(messages)
    llama_cpp_tools.check_packages()
    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    cores = threads()
    with llama_cpp_tools.errors_kept() as said:
        try:
            llama = Llama(
                str(file), n_ctx=context, n_threads=cores, n_threads_batch=cores, verbose=False,
                chat_format="chat_template.default",
            )  # fmt: skip
        except Exception as error:  # also what Jinja raises for a template that it cannot parse
            raise formats.unreadable(file, said or [str(error)]) from error
        try:
            written = formats.of_model(llama.model, file)
            prompt = written.render(asked, options=template_options)
            _check_room(len(llama.tokenize(prompt.encode(), add_bos=False, special=True)), context)
            if template_options:
                write = Jinja2ChatFormatter(
                    written.template, eos_token=written.eos, bos_token=written.bos,
                    stop_token_ids=[llama.token_eos()],
                ).to_chat_handler()  # fmt: skip
                handler: Any = lambda **request: write(**request, **template_options)  # noqa: E731
                llama.chat_handler = handler
            said_so_far: Any = asked
            reply: Any = llama.create_chat_completion(
                messages=said_so_far, temperature=0.0, repeat_penalty=1.0, max_tokens=max_tokens
            )
            return str(reply["choices"][0]["message"]["content"])
        finally:
            llama.close()


def threads() -> int:
    """What OMP_NUM_THREADS says, else the processor's cores, four at most: more do little for one answer."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) else min(4, os.cpu_count() or 1)


def _check_room(tokens: int, context: int) -> None:
    if tokens >= context:
        raise LessonError(
            "The conversation has {tokens} tokens, which the context of {context} does not hold. Shorten "
            "it, or raise context.",
            tokens=tokens, context=context,
        )
