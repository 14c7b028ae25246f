"""Checkpoints that survive a killed process: which are whole, and which run a folder belongs to.

transformers writes a checkpoint as a dozen files, one after the other; a process killed in between leaves a
folder that looks like any other. So a marker, which lists every file with its size and hash, is put beside
them once all are written: a checkpoint is whole when its marker is there and says the truth.
This module knows files and settings; it does not train (`lessonlib.training` does).
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, TrainerCallback
    from trl import SFTTrainer

_MARKER = "lesson_complete.json"  # in each checkpoint, written last
_RUN = "lesson_run.json"  # in the run's folder, written before the first step
_HASHED_UP_TO = 64 * 2**20  # bytes; of a larger file only the size is kept: hashing gigabytes takes too long

# What decides the weights in the end. The rhythm of logging, saving and evaluating is free to change.
_SETTINGS = (
    "seed", "data_seed", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs",
    "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha", "fp16", "bf16", "packing", "max_length",
    "train_sampling_strategy", "dataloader_drop_last",
)  # fmt: skip


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint of a run; says of each newer, half-written one that it is passed over.

    Args:
        folder: the run's output folder; it need not exist.

    Returns:
        The path of a `checkpoint-N` folder, or None where there is no whole one.
    """
    for path in reversed(_by_step(folder)):
        flaw = _flaw(path)
        if flaw is None:
            return path
        print(tr("Passing over {name}: {flaw}.", name=path.name, flaw=flaw))
    return None


def remove_incomplete(folder: str | Path) -> None:
    """Delete half-written checkpoints, so that a new save does not go into a folder with old files in it."""
    for path in _by_step(folder):
        if _flaw(path) is not None:
            _remove(path)


def _mark_complete(path: Path) -> None:
    """Write the marker of a checkpoint, a `checkpoint-N` folder whose files are all there."""
    files = {
        str(file.relative_to(path)): {"size": file.stat().st_size, "sha256": _digest(file)}
        for file in sorted(path.rglob("*"))
        if file.is_file() and not file.name.startswith(_MARKER)
    }
    _write(path / _MARKER, {"files": files})


def marking_callback(keep: int | None) -> "TrainerCallback":
    """The Trainer callback that logs before each save, marks what was saved, and then deletes older ones.

    A checkpoint does not hold the loss summed since the last log; logging at every save makes the history of
    a run that was interrupted the same as that of one that was not. transformers deletes old checkpoints
    before anybody knows whether the new one is whole, and orders them by file time, which some cloud folders
    make up; so switch that off (save_total_limit=None). Add this callback after all others.

    Args:
        keep: how many checkpoints to keep, beside the best one where the Trainer knows it; None keeps all.
    """
    from transformers import TrainerCallback

    class MarkComplete(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            state.compute_steps(args, state.max_steps)  # a resumed state has the rhythm of the earlier call

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_log = control.should_log or control.should_save

        on_epoch_end = on_step_end

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not state.is_world_process_zero:
                return
            _mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            best = Path(state.best_model_checkpoint or "").name
            for path in _by_step(args.output_dir)[:-keep] if keep else []:
                if path.name != best:
                    _remove(path)

    return MarkComplete()


def fingerprint(trainer: "SFTTrainer") -> dict[str, Any]:
    """What makes this run this run: training rows, settings, LoRA, base model. Before the first step.

    Returns:
        A flat dictionary that JSON can hold. Of the base model it holds a hash over names, shapes, dtypes and
        some values of every frozen parameter; trained values are left out, for they change.
    """
    model: Any = trainer.model
    data: Any = trainer.train_dataset
    said = trainer.args.to_dict()
    found: dict[str, Any] = {name: said[name] for name in _SETTINGS}
    found["train_dataset"] = _digest_of_rows(data)
    adapters = getattr(model, "peft_config", {})
    for adapter in adapters.values():
        for name, value in adapter.to_dict().items():
            if name not in ("base_model_name_or_path", "revision", "inference_mode", "peft_version"):
                found[f"lora {name}"] = sorted(value) if isinstance(value, set) else value
    found["base model"] = _digest_of_model(model, adapted=bool(adapters))
    return json.loads(json.dumps(found, default=str))


def claim(folder: str | Path, mine: dict[str, Any]) -> None:
    """Make a folder this run's, or see that it already is.

    Args:
        folder: the run's output folder; made if missing.
        mine: the run's `fingerprint`.

    Raises:
        LessonError: where it holds another run, naming what differs, or checkpoints of who knows which.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not _by_step(folder):  # nothing to lose: before the first checkpoint anything may change
        _write(folder / _RUN, mine)
        return
    try:
        earlier = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        raise LessonError(
            "{folder} holds checkpoints but no readable {run}, so nobody can say of which run they are. "
            "Choose another output_dir, or delete this folder if you no longer need it.",
            folder=folder, run=_RUN,
        ) from None
    # Only what both name: a later version of lessonlib may look at more.
    changed = [name for name in mine if name in earlier and earlier[name] != mine[name]]
    if changed:
        listed = "; ".join(
            name if name in ("train_dataset", "base model")  # hashes tell a reader nothing
            else f"{name} {earlier[name]!r} → {mine[name]!r}"
            for name in changed
        )  # fmt: skip
        raise LessonError(
            "{folder} holds another run; changed since: {listed}. Choose another output_dir for this one, "
            "set it back to go on with the old one, or delete the folder to begin again.",
            folder=folder, listed=listed,
        )


def rows(dataset: "Dataset") -> Iterator[tuple[list[int], list[int]]]:
    """The rows of an encoded dataset as plain lists, (input_ids, labels), whatever its format is."""
    for batch in dataset.with_format(None).select_columns(["input_ids", "labels"]).iter(batch_size=1000):
        yield from zip(batch["input_ids"], batch["labels"], strict=True)


def _by_step(folder: str | Path) -> list[Path]:
    """The folders `checkpoint-N`, the smallest N first."""

    def step(path: Path) -> str:
        return path.name.removeprefix("checkpoint-")

    found = [path for path in Path(folder).glob("checkpoint-*/") if step(path).isdecimal()]
    return sorted(found, key=lambda path: int(step(path)))


def _flaw(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None where it can."""
    try:
        files = json.loads((path / _MARKER).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return tr("no {marker}, which is written last", marker=_MARKER)
    except (ValueError, KeyError, TypeError):
        return tr("{marker} is unreadable", marker=_MARKER)
    for name, said in files.items():
        file = path / name
        if not file.is_file():
            return tr("{name} is missing", name=name)
        size = file.stat().st_size
        if size != said["size"]:
            return tr(
                "{name} has {size} bytes and should have {said}", name=name, size=size, said=said["size"],
            )
        if said["sha256"] != _digest(file):
            return tr("the contents of {name} are damaged", name=name)
    return None


def _remove(path: Path) -> None:
    (path / _MARKER).unlink(missing_ok=True)  # first: whoever is killed in between leaves no false marker
    shutil.rmtree(path)


def _digest(file: Path) -> str | None:
    if file.stat().st_size > _HASHED_UP_TO:
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that the file is either absent (or as before) or whole, even if the machine goes away."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _digest_of_rows(dataset: "Dataset") -> str:
    found = hashlib.sha256()
    for ids, labels in rows(dataset):
        found.update(array("q", [len(ids), *ids, *labels]).tobytes())
    return found.hexdigest()


def _digest_of_model(model: "PreTrainedModel", *, adapted: bool) -> str:
    import torch

    found = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if adapted and parameter.requires_grad:
            continue
        # peft renames what it wraps; which layers it wraps is told apart by the LoRA settings.
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        found.update(f"{name} {tuple(parameter.shape)}".encode())
        if not parameter.requires_grad:
            flat = parameter.detach().flatten()
            some = torch.cat([flat[:32], flat[-32:]]).cpu().view(torch.uint8)  # enough to tell models apart
            found.update(str(parameter.dtype).encode() + some.numpy().tobytes())
    return found.hexdigest()
