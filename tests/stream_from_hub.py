"""Run by tests/data/test_data.py in a process of its own, as the Hub client reads its endpoint once.

Plays one learner who takes rows of datasets on one small Hub: what goes wrong, then what works. Prints one
line of JSON: for each step the error (or the rows and warnings) and what the server was asked.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

from faulty_hub import FaultyHub

PARQUET = "data/train_sft-00000-of-00001.parquet"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def main(folder: Path, cache: Path) -> None:
    told = {}
    with FaultyHub() as hub:
        os.environ.update(hub.environment(cache), HF_TOKEN="hf_of_a_learner", LESSONLIB_LANG="en")
        os.environ["LESSONLIB_HEADLESS"] = "1"
        time.sleep = lambda seconds: None  # the client waits before it tries again

        from lessonlib.data import _splits as data
        from lessonlib.runtime._language import LessonError

        def step(name: str, repository: str, **options: object) -> None:
            hub.requests.clear()
            outcome: dict = {}
            arguments = {"revision": COMMIT, "split": "train_sft", "rows": 5} | options
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    found = data.from_hub(repository, **arguments)
                outcome |= {"rows": found.to_list(), "features": str(found.features)}
                outcome["warnings"] = [str(it.message) for it in caught if it.category is UserWarning]
            except LessonError as error:
                outcome |= {"en": error.en, "vi": error.vi, "cause": type(error.__cause__).__name__}
            outcome["requests"] = [vars(request).copy() for request in hub.requests]
            told[name] = outcome

        step("missing", "someone/chats")
        hub.add("datasets/someone/chats", folder / "chats", revision=COMMIT, gated=True)
        step("gated", "someone/chats")
        hub.add("datasets/someone/chats", folder / "chats", revision="f" * 40)
        step("commit gone", "someone/chats")
        for name in ("chats", "lines", "pickles", "script", "empty", "no_rows"):
            hub.add(f"datasets/someone/{name}", folder / name, revision=COMMIT)
        hub.outage = 503
        step("outage", "someone/chats")
        hub.outage = None
        hub.cuts[PARQUET] = 1000
        step("broken for good", "someone/chats")
        hub.cuts[PARQUET] = 1
        step("broken once", "someone/chats")
        os.chdir(folder / "trap")  # a folder someone/chats is there
        step("parquet", "someone/chats")
        step("columns", "someone/chats", columns=["prompt"], rows=2)
        step("no column", "someone/chats", columns=["prompt", "answer"])
        step("no split", "someone/chats", split="train")
        step("too few", "someone/chats", rows=9999)
        step("lines", "someone/lines", split="train")
        step("pickles", "someone/pickles", split="train")
        step("script", "someone/script", split="train")
        step("empty", "someone/empty", split="train")
        step("no rows", "someone/no_rows", split="train")
    step("no network", "someone/never")
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
