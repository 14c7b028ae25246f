"""The dry run of the profile t4: one real lesson by turns, and what a kernel in it believes.

Which lesson runs is the day's; LESSONLIB_DRY_RUN=03 chooses one, =all runs all (as the weekly workflow does).
"""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lessonlib.models._loading import CATALOGUE
from lessonlib_course import cli, dry_run

ROOT = Path(__file__).parents[2]
LESSONS = sorted(path.name[:2] for path in (ROOT / "lessons").glob("[0-9][0-9]_*.py"))
CHOSEN = os.environ.get("LESSONLIB_DRY_RUN") or LESSONS[datetime.date.today().toordinal() % len(LESSONS)]


def in_simulation(code, **more):
    """What this code prints in a process that starts as a kernel of a dry run does."""
    with dry_run.simulated_t4() as variables:
        asked = {**os.environ, "LESSONLIB_LANG": "en", **variables, **more}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
            env={name: value for name, value in asked.items() if value is not None},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kernel_takes_itself_for_one_on_a_t4(tmp_path):
    told = in_simulation(
        "from lessonlib import runtime\n"
        f"rt = runtime.detect(family='bloom', work={str(tmp_path)!r})\n"
        "print(rt.profile, rt.gpu.capability, rt.device, rt.dtype, rt.pick(rehearsal=1, t4=2))",
        LESSONLIB_PROFILE="t4",
    )
    assert told == "t4 (7, 5) cpu float32 2\n"


def test_models_come_from_the_hub_by_their_real_names(tmp_path):
    told = in_simulation(
        "import json\n"
        "from lessonlib import models, runtime\n"
        f"rt = runtime.detect(family='bloom', profile='t4', work={str(tmp_path)!r})\n"
        "model, tokenizer = models.load('bloom-560m', rt)\n"
        "print(json.dumps([models.source('bloom-560m', rt), model.num_parameters()]))"
    )
    (where, revision), parameters = json.loads(told.splitlines()[-1])
    entry = CATALOGUE["bloom-560m"]
    assert (where, revision) == (entry.hub_id, entry.revision) and parameters < 10_000_000


def test_no_token_of_this_machine_gets_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "mine" * 8)
    monkeypatch.setenv("WANDB_API_KEY", "mine")
    with dry_run.simulated_t4() as variables:
        assert variables["HF_TOKEN"] is variables["WANDB_API_KEY"] is None


@pytest.mark.parametrize("lesson", LESSONS if CHOSEN == "all" else [CHOSEN])
def test_a_lesson_runs_to_its_end(lesson, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["run", lesson, "--dry-run", "t4", "--lang", "en", "--out", str(tmp_path / "out")]) == 0
    assert "A dry run, not a T4" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["profile"] == "t4"
