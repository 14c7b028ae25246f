"""Logs in to Weights & Biases (W&B), and reads back what W&B wrote down.

Keys come from `runtime.secret`, are handed on and never written, printed or put into the environment. Without
a key W&B works offline, in a folder: nothing asks, nothing waits, nothing leaves the machine. It knows
nothing of what is trained: transformers' own callback sends the losses (report_to="wandb").
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._detect import Runtime, Secret, secret
from lessonlib.runtime._language import LessonError, tr
from lessonlib.training._wandb_log import logged

if TYPE_CHECKING:
    import pandas as pd

_KEYS_PAGE = "https://forge.coreweave.com/wandb/authorize"  # where wandb 0.31 sends its users
_WAIT = 20  # seconds for W&B's server to answer, then the run stays offline
# transformers' names for what it sends, and those of training.history
_COLUMNS = {
    "train/global_step": "step",
    "train/epoch": "epoch",
    "train/loss": "loss",
    "eval/loss": "eval_loss",
    "train/learning_rate": "learning_rate",
}


def start(runtime: Runtime, *, project: str, name: str) -> dict[str, str]:
    """Start a W&B run, and say how `training.sft_config` is to report to it. Ends with `finish`.

    With the secret WANDB_API_KEY it is online. Without it, with WANDB_MODE=offline, or where W&B cannot be
    reached within 20 seconds it is offline: kept in `runtime.work`/wandb, to be uploaded later with
    `wandb sync FOLDER`. It says in one line which; everything else that W&B prints is silenced.

    Kept private: of the machine neither host name, user, program, git state, code, installed packages,
    console output nor load is recorded. What does go up: losses, and with transformers' callback the
    configurations of model, LoRA and training (paths such as output_dir among them), Python's and wandb's
    version. The key is given to this run alone: not to ~/.netrc, not to the environment.

    Args:
        runtime: says where the work folder is.
        project: W&B's name for what belongs together.
        name: this run's name.

    Returns:
        {"report_to": "wandb", "run_name": name}; with WANDB_MODE=disabled {"report_to": "none", ...}.

    Raises:
        LessonError: no wandb; a key that has the wrong form or that W&B refuses; a name it refuses.
    """
    finish()  # wandb reads its environment once in a session
    mode, key, why = _mode()
    if mode == "disabled":
        print(tr("W&B: off (WANDB_MODE=disabled)."))
        return {"report_to": "none", "run_name": name}
    if mode == "online":
        try:
            run = _init(runtime, project, name, key)
        except TimeoutError:
            mode = "offline"
            why = tr("W&B cannot be reached")
        else:
            print(tr("W&B: online, see {url}", url=run.url))
    if mode == "offline":
        _init(runtime, project, name, None)
        folder = runtime.work / "wandb"
        shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        print(tr("W&B: offline ({why}), kept in {shown}", why=why, shown=shown))
    return {"report_to": "wandb", "run_name": name}


def finish() -> Path | None:
    """End the run that `start` began, and wait until all of it is written (and, online, uploaded).

    Returns:
        The run's folder, or None where there is no run.

    Raises:
        LessonError: W&B's own process broke down; what it had written is still in the folder.
    """
    wandb: Any = sys.modules.get("wandb")
    if wandb is None:
        return None
    folder = Path(wandb.run.settings.sync_dir) if wandb.run else None
    try:
        wandb.finish()  # comes back before the file is written
        wandb.teardown()
    except SystemExit as problem:
        raise LessonError(
            "W&B's process ended with error {code}. What it had written is in {folder}; the training itself "
            "is not touched by this.",
            code=problem.code, folder=folder,
        ) from problem
    return folder


def offline_history(folder: str | os.PathLike) -> "pd.DataFrame":
    """What a run kept on disk, one row a step: the same table as `training.history` gives of the trainer.

    Args:
        folder: what `finish` returned, a run's .wandb file, or a folder with several runs, of which the
            newest that logged a loss is read.

    Returns:
        A DataFrame with the columns step, epoch, loss, eval_loss and learning_rate; NaN where a step has no
        such value, no rows where nothing was logged.

    Raises:
        LessonError: there is no run, or its file is none of W&B's or damaged. A file that ends in the middle
            of a record (the run was killed) is read up to there.
    """
    import pandas as pd

    place = Path(folder)
    runs = sorted(place.rglob("run-*.wandb"), key=_age)
    files = [place] if place.is_file() else runs
    if not files:
        raise LessonError(
            "There is no W&B run in {place}. Call training.start_tracking before training and "
            "training.finish_tracking() after it.",
            place=place,
        )
    found: dict[int, dict[str, float]] = {}
    for file in reversed(files):
        for call in logged(file):
            values = {_COLUMNS[key]: float(value) for key, value in call.items() if key in _COLUMNS}
            if {"loss", "eval_loss"} & values.keys():
                found.setdefault(int(values["step"]), {}).update(values)
        if found:
            break
    frame = pd.DataFrame([found[step] for step in sorted(found)], columns=list(_COLUMNS.values()))
    return frame.astype(dict.fromkeys(_COLUMNS.values(), "float64") | {"step": "int64"})


def _age(file: Path) -> tuple[str, int]:
    """To sort by: the time in "[offline-]run-DATE_TIME-ID", within one second when the file was written."""
    *_, when, _ = ["", "", *file.parent.name.split("-")]
    return when, file.stat().st_mtime_ns


def _mode() -> tuple[str, Secret | None, str]:
    """(online, offline or disabled; the key; why offline)."""
    wanted = os.environ.get("WANDB_MODE", "")
    if wanted in ("offline", "dryrun", "disabled"):
        return ("disabled" if wanted == "disabled" else "offline"), None, f"WANDB_MODE={wanted}"
    try:
        return "online", secret("WANDB_API_KEY"), ""
    except LessonError:
        return "offline", None, tr("no WANDB_API_KEY")


def _init(runtime: Runtime, project: str, name: str, key: Secret | None) -> Any:
    """Start a run, online with a key; TimeoutError where the server did not answer."""
    # Wandb's own process is started with these: no reports to its makers, its logs in the work folder.
    cache = str(runtime.work / "wandb" / "cache")
    with _environment(WANDB_ERROR_REPORTING="false", WANDB_SILENT="true", WANDB_CACHE_DIR=cache):
        try:
            import wandb
            from wandb.errors import AuthenticationError, CommError, UsageError
        except ImportError as problem:
            raise LessonError(
                "wandb is not installed. Run: pip install wandb, or leave report_to='wandb' out.",
            ) from problem
        settings = wandb.Settings(
            mode="online" if key else "offline", api_key=str(key) if key else None, init_timeout=_WAIT,
            root_dir=str(runtime.work), use_dot_wandb=False, silent=True, quiet=True, console="off",
            disable_git=True, disable_code=True, save_code=False, disable_job_creation=True,
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
            host="", username="", email="", program="", x_executable="",
        )  # fmt: skip
        wandb.setup(settings=wandb.Settings(silent=True, quiet=True))  # its messages come from there, too
        try:
            return wandb.init(project=project, name=name, settings=settings)
        except AuthenticationError as problem:
            raise LessonError(
                "WANDB_API_KEY has the wrong form ({problem}). Visit {keys_page}, copy the whole key and "
                "put it into the secret WANDB_API_KEY; or delete that secret to run offline.",
                problem=problem, keys_page=_KEYS_PAGE,
            ) from None
        except CommError as problem:
            if "timed out" in str(problem).lower():
                raise TimeoutError from problem
            raise LessonError(
                "W&B refuses WANDB_API_KEY ({problem}). Visit {keys_page}, create a new key and put it into "
                "the secret WANDB_API_KEY; or delete that secret to run offline.",
                problem=problem, keys_page=_KEYS_PAGE,
            ) from None
        except UsageError as problem:
            raise LessonError(
                "W&B does not take project={project!r}, name={name!r}: {problem}",
                project=project, name=name, problem=problem,
            ) from problem


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
