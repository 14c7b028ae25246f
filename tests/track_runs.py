"""Run by tests/training/test_tracking.py in a process of its own: a learner's session with W&B, nobody at
the keyboard. Python's own sockets reach this machine only. Prints one line of JSON for each step.

    python tests/track_runs.py WORK STEP...      a step is KEY (or "none"), or KEY@URL for another server
"""

import json
import os
import socket
import sys
from pathlib import Path

connect = socket.socket.connect


def guarded(self, address):
    if isinstance(address, tuple) and not str(address[0]).startswith("127."):
        raise AssertionError(f"tried to reach {address}")
    return connect(self, address)


def main(work, steps):
    socket.socket.connect = guarded
    from lessonlib.runtime import _detect as runtime
    from lessonlib.runtime._language import LessonError
    from lessonlib.training import _tracking as tracking

    tracking._WAIT = 3
    rt = runtime.detect(profile="rehearsal", gpu=None, work=work)
    for step in steps:
        key, _, url = step.partition("@")
        os.environ.update({"WANDB_BASE_URL": url} if url else {})
        if key == "none":
            os.environ.pop("WANDB_API_KEY", None)
        else:
            os.environ["WANDB_API_KEY"] = key
        before, told = dict(os.environ), {}
        try:
            told["config"] = tracking.start(rt, project="lesson-03", name="a run")
            changed = {name for name, _ in set(os.environ.items()) ^ set(before.items())}
            told["changed"] = sorted(changed - {"WANDB_SERVICE"})  # its own process's address
            import wandb

            for number in range(3):
                wandb.log({"train/global_step": number + 1, "train/loss": 3.5 / (number + 1)})
            folder = tracking.finish()
            told["folder"] = folder.relative_to(rt.work).as_posix()
            told["losses"] = tracking.offline_history(folder)["loss"].tolist()
        except LessonError as error:
            told |= {"en": error.en, "vi": error.vi}
        print(json.dumps(told))
    assert tracking.finish() is None


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
