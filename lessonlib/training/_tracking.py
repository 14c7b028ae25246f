"""Logs in to Weights & Biases (W&B), and reads back what W&B wrote down.

Keys come from `runtime.secret`, are handed on and never written, printed or put into the environment. Without
a key W&B works offline, in a folder: nothing asks, nothing waits, nothing leaves the machine. It knows
nothing of what is trained: transformers' own callback sends the losses (report_to="wandb").

wandb 0.31 ships no reader for the file in which it keeps a run, offline or online. It is LevelDB's log format
(https://github.com/google/leveldb/blob/main/doc/log_format.md) with another header and a plain CRC-32: after
7 bytes, blocks of 32 KiB with pieces of records. A record is a protobuf message, of a type that wandb ships.
"""

import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._detect import Runtime, Secret, secret
from lessonlib.runtime._language import LessonError, tr
from lessonlib.training._trainer import logged

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
_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)  # name, magic number, version
_BLOCK, _PIECE = 32768, struct.Struct("<IHB")  # of each piece: checksum, length, kind
_WHOLE, _FIRST, _LAST = 1, 2, 4


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
            mode, why = "offline", tr("W&B cannot be reached")
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
    place = Path(folder)
    files = [place] if place.is_file() else sorted(place.rglob("run-*.wandb"), key=_age, reverse=True)
    if not files:
        raise LessonError(
            "There is no W&B run in {place}. Call training.start_tracking before training and "
            "training.finish_tracking() after it.",
            place=place,
        )
    for file in files:
        table = logged(
            {_COLUMNS[key]: float(value) for key, value in call.items() if key in _COLUMNS}
            for call in _calls(file)
        )
        if len(table):
            break
    return table


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
    """These variables for a while, where they have no value already."""
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _calls(file: Path) -> Iterator[dict[str, Any]]:
    """What each call of wandb.log wrote, by name, in order."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    for record in _records(file):
        message = messages.Record.FromString(record)
        if message.WhichOneof("record_type") == "history":
            # a name is either a key or a nested key, which has one part where it is not nested
            items = message.history.item
            yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(file: Path) -> Iterator[bytes]:
    """Puts the pieces of each record together."""
    data = file.read_bytes()
    if data[: len(_HEADER)] != _HEADER:
        raise LessonError("{file} is no run file of W&B's.", file=file)
    place, record = len(_HEADER), b""
    while place + _PIECE.size <= len(data):
        if _BLOCK - place % _BLOCK < _PIECE.size:  # too little is left of the block for another piece
            place += _BLOCK - place % _BLOCK
            continue
        checksum, length, kind = _PIECE.unpack_from(data, place)
        start, place = place + _PIECE.size, place + _PIECE.size + length
        if place > len(data):  # the run was killed while it wrote this
            return
        piece = data[start:place]
        if zlib.crc32(bytes([kind]) + piece) != checksum:
            raise LessonError(
                "{file} is damaged at byte {start}. Train again with a new training.start_tracking.",
                file=file, start=start,
            )
        record = piece if kind in (_WHOLE, _FIRST) else record + piece
        if kind in (_WHOLE, _LAST):
            yield record
