"""Run by tests/data/test_hub_chats.py in a process of its own: the Hub client reads its endpoint once.

Plays one learner who takes both datasets from one small Hub, by name and commit as the lesson has them, and
makes conversations of them. Prints one line of JSON: what came out, and what was left out and why.
"""

import json
import os
import sys
from pathlib import Path

from faulty_hub import FaultyHub


def main(folder: Path, cache: Path) -> None:
    with FaultyHub() as hub:
        os.environ.update(hub.environment(cache), LESSONLIB_LANG="en", LESSONLIB_HEADLESS="1")
        from lessonlib.data import _hub_chats as hub_chats
        from lessonlib.data import _placeholders as placeholders
        from lessonlib.data import _splits as data

        for name, commit in (hub_chats.BITEXT, hub_chats.COUNSELING):
            hub.add(f"datasets/{name}", folder / name.split("/")[0], revision=commit)

        name, commit = hub_chats.BITEXT
        rows = data.from_hub(name, revision=commit, split="train", rows=30_000)
        found = placeholders.find(rows)
        filled, report = placeholders.fill(rows, hub_chats.BITEXT_VALUES)
        chats, more = hub_chats.from_bitext(filled, system="You work at the support desk.")
        told = {
            "columns": rows.column_names, "found": found.to_dict("records"), "chats": chats.to_list(),
            "gone": [it.removed.to_dict("records") for it in (report, more)],
        }  # fmt: skip

        name, commit = hub_chats.COUNSELING
        rows = data.from_hub(name, revision=commit, split="train", rows=9999, columns=["Context", "Response"])
        chats, report = hub_chats.from_counseling(rows, system="Be kind.")
        told["counseling"] = {"chats": chats.to_list(), "gone": report.removed.to_dict("records")}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
