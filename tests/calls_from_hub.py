"""Run by tests/tools/test_hub_calls.py in a process of its own: the Hub client reads its endpoint once.

Plays one learner who takes the dataset from a small Hub by its name and the first digits of its commit, as
the lesson does, and turns the rows. Prints one line of JSON: what came out, what went, what was asked for.
"""

import json
import os
import sys
from pathlib import Path

from faulty_hub import FaultyHandler, FaultyHub

COMMITS = ("0" * 40, "ee5bf6e" + "1" * 33, "ee5bf6f" + "2" * 33, "abcdef0" + "3" * 33, "abcdef0" + "4" * 33)


class Listing(FaultyHandler):
    """Answers /api/datasets/<owner>/<name>/commits/main as the Hub does: newest first, in pages of two."""

    def _read(self, parts, token, recursive):
        if parts[4:5] != ["commits"] or self.repository_name(parts[1:]) not in self.hub.repositories:
            return super()._read(parts, token, recursive)
        page = int(self.path.partition("?p=")[2] or 0)
        rest = {"authors": [], "date": "2025-02-01T00:00:00.000Z", "title": "", "message": ""}
        listed = [{"id": commit, **rest} for commit in COMMITS[::-1]][2 * page : 2 * page + 2]
        more = {"Link": f'<{self.hub.url}/{"/".join(parts)}?p={page + 1}>; rel="next"'} if page < 2 else {}
        self.send_json(listed, headers=more)


def main(folder: Path, cache: Path) -> None:
    FaultyHub.handler = Listing
    with FaultyHub() as hub:
        os.environ.update(hub.environment(cache), LESSONLIB_LANG="en", LESSONLIB_HEADLESS="1")
        from lessonlib.data import _splits as data
        from lessonlib.runtime._language import LessonError
        from lessonlib.tools import _hub_calls as hub_calls

        told = {"refused": []}
        hub.add(f"datasets/{hub_calls.HERMES}", folder, revision=COMMITS[1])
        for name, begins in (
            (hub_calls.HERMES, "1234567"), (hub_calls.HERMES, "abcdef0"), ("nobody/nothing", "ee5bf6e")
        ):
            try:
                data.whole_commit(name, begins)
            except LessonError as error:
                told["refused"].append([error.en, error.vi])

        commit = data.whole_commit(hub_calls.HERMES, hub_calls.HERMES_REVISION)
        hub.requests.clear()
        rows = data.from_hub(hub_calls.HERMES, revision=commit, split="train", rows=5)
        asked = [request.path for request in hub.requests]
        calls, report = hub_calls.from_hermes(rows)
        told |= {
            "commit": commit, "asked": asked, "columns": rows.column_names, "rows": len(rows),
            "calls": calls.to_list(), "gone": report.removed.to_dict("records"),
        }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
