"""A GGUF file that nobody vouches for, read by llama.cpp in a process of its own (`_worker`).

Where llama.cpp aborts, that process is gone and not the learner's notebook.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import LessonError, Translated

if TYPE_CHECKING:
    import numpy as np

# With the parent's own path: `-m` would look for lessonlib where Python starts, and put its folder first.
SERVE = (
    "import sys; sys.path[:] = sys.argv[1:]; from lessonlib.export._gguf_parity._worker import serve; serve()"
)
TAIL = 3  # last lines of what llama.cpp wrote that a message shows
DOING = {
    "open": Translated("opening"),
    "token_ids": Translated("tokenising with"),
    "follow": Translated("computing with"),
    "render": Translated("rendering conversations with"),
}


class GgufModel:
    """One GGUF file, loaded in a process of its own; use it in a `with` block, which ends that process.

    Args:
        path: the file.
        context: the longest text, in tokens, with its answer.
        threads: of the computation.

    Raises:
        LessonError: llama.cpp cannot load it, or it died of it; the message says why. From every method, too:
            it died of what it was asked. Nothing more can be asked then.
    """

    def __init__(self, path: str | os.PathLike, *, context: int, threads: int) -> None:
        self._path = os.fspath(path)
        # A pipe that nobody reads would fill up and stop the process.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # which would hide the last words
        )  # fmt: skip
        try:
            opened = self._ask("open", path=self._path, context=context, threads=threads)
        except BaseException:  # also a KeyboardInterrupt: no `with` block will end the process
            self.close()
            raise
        self.vocabulary: int = opened["vocabulary"]
        #: ids at which llama.cpp ends an answer, whatever their name in the file
        self.stops: set[int] = set(opened["stops"])
        #: the file's own end-of-sequence token, at which other readers end one; -1: none
        self.eos: int = opened["eos"]

    def __enter__(self) -> "GgufModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()  # it has nothing to save
        self._process.communicate()
        self._log.close()

    def token_ids(self, texts: Sequence[str], *, whole: bool = True) -> list[list[int]]:
        """As `LoadedGguf.token_ids`."""
        return self._ask("token_ids", texts=list(texts), whole=whole)["said"]

    def follow(
        self, prompt: Sequence[int], answer: Sequence[int], *, max_new_tokens: int
    ) -> "tuple[list[int], np.ndarray]":
        """As `LoadedGguf.follow`."""
        import numpy as np

        reply = self._ask("follow", prompt=list(prompt), answer=list(answer), max_new_tokens=max_new_tokens)
        logits = np.empty(reply["shape"], np.float32)
        assert self._process.stdout is not None
        if self._process.stdout.readinto(logits.data.cast("B")) != logits.nbytes:  # type: ignore[attr-defined]
            raise self._died("follow")
        return reply["said"], logits

    def render(
        self, messages: Sequence[Mapping[str, Any]], ask: bool, options: Mapping[str, Any]
    ) -> str | None:
        """As `LoadedGguf.render`; the options have to be values of JSON."""
        return self._ask("render", messages=list(messages), ask=ask, options=dict(options))["said"]

    def _ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None and answers is not None
        line = b""
        try:
            questions.write(json.dumps([call, arguments]).encode() + b"\n")
            questions.flush()
            line = answers.readline()
        except OSError:  # there is no reader any more
            pass
        if not line.endswith(b"\n"):
            raise self._died(call)
        answer: dict[str, Any] = json.loads(line)
        if "problem" in answer:
            raise LessonError(Translated.of(**answer["problem"]))
        return answer

    def _died(self, call: str) -> LessonError:
        code = self._process.wait()
        self._log.seek(0)
        wrote = " ".join(self._log.read().decode(errors="replace").strip().splitlines()[-TAIL:])
        try:
            how = signal.Signals(-code).name
        except ValueError:  # it was no signal
            how = f"exit {code}"
        cure = Translated("Export this file again.")
        if how == "SIGKILL":  # nothing but the system sends that
            cure = Translated(
                "Mostly the memory was full: close other notebooks and programs and run this again."
            )
        elif call == "token_ids":
            cure = Translated(
                "Export this file again. If that does not help, see whether the merged folder's tokenizer is "
                "that of the base."
            )
        return LessonError(
            "llama.cpp died ({how}) while {doing} {path}. {cure} The last lines it wrote: {wrote}",
            how=how, doing=DOING[call], path=self._path, cure=cure, wrote=wrote or "-",
        )
