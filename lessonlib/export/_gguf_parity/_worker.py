"""The process in which llama.cpp reads one GGUF file, for `_child.GgufModel`, which starts it.

llama.cpp answers a bad file with abort(), or an exception that nobody catches: whatever process it runs in is
gone. It reads questions from stdin and answers on stdout, each of them a line of JSON; logits follow theirs
as bytes. It ends with its stdin, so it does not outlive the notebook.

llama.cpp is reached through llama-cpp-python. What rounds more than it has to is switched off, so that the
numbers show the file and not the settings: a float32 key-value cache, no flash attention.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    import numpy as np

F32 = 0  # ggml's number for the type float32


class LoadedGguf:
    """One loaded GGUF file, as long as this process lasts.

    Args:
        path: the file.
        context: the longest text, in tokens, with its answer.
        threads: of the computation.

    Raises:
        LessonError: llama.cpp cannot load it; the message says why.
    """

    def __init__(self, path: str | os.PathLike, *, context: int, threads: int) -> None:
        import llama_cpp

        with llama_cpp_tools.errors_kept() as said:
            try:
                self._llama = llama_cpp.Llama(
                    model_path=os.fspath(path), n_ctx=context, n_batch=min(context, 512), n_threads=threads,
                    n_threads_batch=threads, logits_all=True, type_k=F32, type_v=F32, flash_attn=False,
                    verbose=True,  # else what it says when it aborts goes to /dev/null
                )  # fmt: skip
            except Exception as problem:  # also a chat template that jinja cannot parse
                reason = " ".join(said) or str(problem)
                raise LessonError(
                    "llama.cpp cannot open {path}: {reason} Export this file again.",
                    path=path, reason=reason,
                ) from problem
        self._vocab = llama_cpp.llama_model_get_vocab(self._llama.model)
        self.vocabulary = int(self._llama.n_vocab())
        #: ids at which llama.cpp ends an answer, whatever their name in the file
        self.stops = {i for i in range(self.vocabulary) if llama_cpp.llama_vocab_is_eog(self._vocab, i)}
        #: the file's own end-of-sequence token, at which other readers end one; -1: none
        self.eos = int(self._llama.token_eos())
        self._formatter = self._compiled_template()

    def token_ids(self, texts: Sequence[str], *, whole: bool = True) -> list[list[int]]:
        """The token ids of each text; special tokens in it count as such.

        Args:
            texts: what to tokenise.
            whole: put the file's BOS in front where it wants one; False: the texts are rendered chats.
        """
        import llama_cpp

        encoded = [text.encode() for text in texts]
        room = max(map(len, encoded), default=0) + 2  # a token is a byte or more; BOS and EOS come on top
        buffer = (ctypes.c_int32 * room)()
        found = []
        for text in encoded:
            count = llama_cpp.llama_tokenize(self._vocab, text, len(text), buffer, room, whole, True)
            found.append(buffer[:count])
        return found

    def follow(
        self, prompt: Sequence[int], answer: Sequence[int], *, max_new_tokens: int
    ) -> "tuple[list[int], np.ndarray]":
        """The file's own greedy answer, and its logits where it reads another one.

        Args:
            prompt: token ids.
            answer: token ids of the answer whose logits are wanted; may be empty.
            max_new_tokens: where its own answer is cut.

        Returns:
            (its answer up to but without the stop token; logits of shape (prompt + answer, vocabulary)).
        """
        llama = self._llama
        llama.reset()
        llama.eval(prompt)
        said: list[int] = []
        while len(said) < max_new_tokens:
            best = int(llama.scores[llama.n_tokens - 1].argmax())
            if best in self.stops:
                break
            said.append(best)
            llama.eval([best])
        same = len(os.path.commonprefix([said, list(answer)]))
        llama.n_tokens = len(prompt) + same  # eval() takes what lies beyond out of the cache
        if answer[same:]:
            llama.eval(answer[same:])
        return said, llama.scores[: llama.n_tokens].copy()

    def render(
        self, messages: Sequence[Mapping[str, Any]], ask: bool, options: Mapping[str, Any]
    ) -> str | None:
        """A conversation as the file's chat template writes it, rendered as llama-cpp-python does.

        Args:
            messages: role and content of each.
            ask: open an answer at the end.
            options: further variables of the template.

        Returns:
            The text; None where the file has no template or its template refuses the conversation.
        """
        if self._formatter is None:
            return None
        self._formatter.add_generation_prompt = ask
        try:
            return self._formatter(messages=messages, **options).prompt
        except Exception:  # a template may raise what it likes
            return None

    def _compiled_template(self) -> Any:
        import llama_cpp
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        template = self._llama.metadata.get("tokenizer.chat_template")
        if template is None:
            return None
        special: Any = {
            name: llama_cpp.llama_vocab_get_text(self._vocab, token).decode() if token >= 0 else ""
            for name, token in (("bos_token", self._llama.token_bos()), ("eos_token", self.eos))
        }
        return Jinja2ChatFormatter(template, **special)


def serve() -> None:
    """Answer until stdin ends. The first question has the arguments of `LoadedGguf`; without it there is
    nothing to ask, so where it cannot be loaded the answer says why and is the last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a notebook's interrupt reaches us too; our parent ends us
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what llama.cpp prints belongs into the log, not between the answers
        questions = sys.stdin.buffer
        _, opening = json.loads(questions.readline())
        try:
            model = LoadedGguf(**opening)
        except LessonError as problem:
            _say(answers, {"problem": {"vi": problem.vi, "en": problem.en}})
            return
        _say(answers, {"vocabulary": model.vocabulary, "stops": sorted(model.stops), "eos": model.eos})
        for line in questions:
            call, arguments = json.loads(line)
            if call == "follow":
                said, logits = model.follow(**arguments)
                _say(answers, {"said": said, "shape": logits.shape}, logits)
            elif call == "token_ids":
                _say(answers, {"said": model.token_ids(**arguments)})
            else:
                _say(answers, {"said": model.render(**arguments)})


def _say(answers: BinaryIO, answer: dict[str, Any], rest: Any = b"") -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.write(rest)
    answers.flush()
