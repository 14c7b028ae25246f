"""The process in which llama.cpp reads one GGUF file, for `_child.GgufModel`, which starts it.

llama.cpp answers a bad file with abort(), or an exception that nobody catches: whatever process it runs in is
gone. It reads questions from stdin and answers on stdout, each of them a line of JSON; logits follow theirs
as bytes. It ends with its stdin, so it does not outlive the notebook.
"""

import json
import os
import signal
import sys
from typing import Any, BinaryIO

from lessonlib.export._gguf_parity._llama import LoadedGguf
from lessonlib.runtime._language import LessonError


def serve() -> None:
    """Answer until stdin ends. The first question has the arguments of `LoadedGguf`; without it there is
    nothing to ask, so where it cannot be loaded the answer says why and is the last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a notebook's interrupt reaches us too; our parent ends us
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what llama.cpp prints belongs into the log, not between the answers
        questions = sys.stdin.buffer
        _, opening = json.loads(questions.readline())
        try:
            opened = LoadedGguf(**opening)
        except LessonError as problem:
            _say(answers, {"problem": {"vi": problem.vi, "en": problem.en}})
            return
        with opened as model:
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
