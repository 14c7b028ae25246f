"""Saves what was trained, as an adapter or merged into the base, and proves that the copy answers alike.

It knows nothing of training. Every export is first written whole into a hidden folder beside its place and
then renamed, so that whatever goes wrong the old export stays and nothing half-written is left.
"""

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.evaluation._answers import stop_ids
from lessonlib.lora._config import saved_embeddings, trained_rows
from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MARKER = "lessonlib_export.json"  # says that a folder is an export, and of what: only then may one replace it
BESIDE_WEIGHTS = 64 * 2**20  # bytes left for tokenizer and configuration


def save_adapter(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    folder: str | os.PathLike,
) -> Path:
    """Save the adapter alone: adapter_model.safetensors, its configuration and the tokenizer.

    The configuration names the base model and, where it came from the Hub, the revision it really was: an
    adapter fits no other weights. Load it with `PeftModel.from_pretrained(base, folder)`.

    Of an embedding in which only new tokens are trained, these rows are saved and not the whole matrix. So
    the base must have them before: load the base, call `lora.add_tokens(base, tokenizer, tokens)` with
    its own tokenizer or the one saved here, then `PeftModel.from_pretrained(base, folder)`.

    Args:
        model: a PeftModel; it is not changed.
        tokenizer: the tokenizer it was trained with.
        folder: where to; an earlier adapter export there is replaced.

    Returns:
        The folder.

    Raises:
        LessonError: no PeftModel; NaN in the adapter; an adapter without effect; not enough disk; a folder
            that holds something else.
    """
    _check_adapter(model)
    about = _about(model, "adapter")
    size = sum(weight.nbytes for weight in _trained(model).values())
    with replacing(Path(folder), "adapter", size) as staging:
        peft_settings: Any = model.active_peft_config
        model.save_pretrained(str(staging), save_embedding_layers=saved_embeddings(peft_settings))
        tokenizer.save_pretrained(str(staging))
        configuration = staging / "adapter_config.json"
        settings = json.loads(configuration.read_text(encoding="utf-8"))
        write_json(configuration, settings | {"revision": about["revision"] or settings["revision"]})
        write_json(staging / MARKER, about)
    return Path(folder)


def merge(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    folder: str | os.PathLike,
    *,
    dtype: "torch.dtype | None" = None,
) -> "PreTrainedModel":
    """Add the adapter to the base weights, W + (alpha / r) B A, and save the result as an ordinary model.

    The merging is done on a copy, so `model` can go on training: it takes the memory of the whole model a
    second time (for BLOOM-560m in fp16 about 1.1 GB). The generation settings saved are greedy, with the
    tokenizer's real end-of-sequence and padding tokens. Load it with
    `AutoModelForCausalLM.from_pretrained(folder)`; neither peft nor lessonlib is needed for that. Rows that
    were trained for new tokens go into the embedding, and the tokenizer that knows them is saved with it.

    A 4-bit base (bitsandbytes) is first widened to `dtype`, and stays so: what is saved is an ordinary
    model that is not quantised. peft's own merge rounds the sum to 4 bits again, which on the course's
    twins costs 27 to 61% of what the adapter changes in the logits; this one leaves a rounding in `dtype`.
    Beside the 4-bit model, which is shared and not copied, it takes the whole model in `dtype` (Phi-3-mini
    in fp16: 7.6 GB), on the same device.

    Args:
        model: a PeftModel; it is not changed.
        tokenizer: the tokenizer it was trained with.
        folder: where to; an earlier merged export there is replaced.
        dtype: the type of the saved weights; None: that of the base (of a 4-bit one: the dtype that it was
            loaded with). Where it is wider, the sum is computed in it.

    Returns:
        The merged model, in evaluation mode, on the device of `model`.

    Raises:
        LessonError: no PeftModel; a base quantised otherwise than to 4 bits by bitsandbytes; NaN or infinity
            in the adapter or the sum; an adapter without effect; not enough disk; a folder that holds
            something else.
    """
    import torch

    _check_adapter(model)
    base: Any = model.get_base_model()
    four_bit = getattr(base, "is_loaded_in_4bit", False)
    if getattr(base.config, "quantization_config", None) is not None and not four_bit:
        raise LessonError(
            "The base model is quantised otherwise than to bitsandbytes' 4 bits (to 8 bits, say): merging "
            "into it would round away much of what the adapter learnt. Save the adapter, load the base "
            "unquantised, put the adapter on it with PeftModel.from_pretrained, then merge.",
        )
    # Preparing a 4-bit model for training widens what is not quantised: its dtype now is not the one it had.
    own = base.config.dtype if four_bit else base.dtype
    target = dtype or own
    size = sum(_numbers(weight) for weight in model.parameters()) * target.itemsize
    with replacing(Path(folder), "merged", size) as staging:
        merged = _merged_copy(model, torch.promote_types(own, target)).to(target)
        stops = stop_ids(merged.generation_config, tokenizer)
        _make_ready(merged, tokenizer, stops[0] if len(stops) == 1 else stops)
        # One shard at a time is copied to the CPU: a whole 3B model is half of a free Colab's memory.
        merged.save_pretrained(str(staging), max_shard_size="2GB")
        tokenizer.save_pretrained(str(staging))
        write_json(staging / MARKER, _about(model, "merged"))
    gc.collect()  # the copy's layers hold each other: without this they stay where the learner needs room
    return merged


def _merged_copy(model: "PeftModel", dtype: "torch.dtype") -> Any:
    from copy import deepcopy

    if getattr(model.get_base_model(), "is_loaded_in_4bit", False):
        copy: Any = _widened_copy(model, dtype)
    else:
        copy = deepcopy(model)
        if dtype != copy.get_base_model().dtype:
            copy = copy.to(dtype)
    try:
        merged = copy.merge_and_unload(safe_merge=True)  # safe: looks for NaN and infinity in each sum
    except ValueError as error:
        raise LessonError(
            "Merging gave NaN or infinity ({error}). Merge with dtype=torch.float32, or load a good "
            "checkpoint.",
            error=error,
        ) from error
    return merged


def _widened_copy(model: "PeftModel", dtype: "torch.dtype") -> "PeftModel":
    """The same adapter on the same 4-bit weights, written out as numbers of `dtype`."""
    from copy import deepcopy

    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    # deepcopy takes what its memo already holds for a copy: the 4-bit weights, which nothing here changes.
    shared = {id(weight): weight for weight in model.parameters() if hasattr(weight, "quant_state")}
    base: Any = deepcopy(model, shared).unload()
    base = base.dequantize(dtype).to(dtype)
    for leftover in ("is_loaded_in_4bit", "is_4bit_serializable"):
        vars(base).pop(leftover, None)
    copy: Any = None
    for name in model.active_adapters:
        settings: Any = deepcopy(model.peft_config[name])
        settings.init_lora_weights = True  # PiSSA and LoftQ would change the base once more
        if copy is None:
            copy = get_peft_model(base, settings, adapter_name=name)
        else:
            copy.add_adapter(name, settings)
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        set_peft_model_state_dict(copy, state, adapter_name=name)
    copy.base_model.set_adapter(model.active_adapters)
    return copy


def _numbers(weight: Any) -> int:
    """How many numbers a parameter stands for; a 4-bit one holds two in each byte."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else state.shape.numel()


def _make_ready(merged: Any, tokenizer: "PreTrainedTokenizerBase", stops: int | list[int]) -> None:
    """Take off what training left on the model, and write down how it is to be asked."""
    from transformers import GenerationConfig

    merged.eval()
    merged.gradient_checkpointing_disable()
    # Training with checkpointing makes the embeddings' output require gradients by a hook. The handle that
    # was copied with the model points to the original's hooks: its remove() would take the hook off that one.
    merged.get_input_embeddings()._forward_hooks.clear()
    pad = tokenizer.pad_token_id
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": stops,
        "pad_token_id": (stops if isinstance(stops, int) else stops[0]) if pad is None else pad,
    }
    for name, value in ids.items():
        setattr(merged.config, name, value)
    merged.config.use_cache = True  # training turns it off; without it each new token costs the whole prompt
    merged.generation_config = GenerationConfig(**ids)


def _check_adapter(model: Any) -> None:
    import torch
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise LessonError(
            "{name} is no PeftModel, so there is no adapter to save. Pass trainer.model, or the model that "
            "get_peft_model gave.",
            name=type(model).__name__,
        )
    adapter = _trained(model)
    for name, weight in adapter.items():
        if not torch.isfinite(weight).all():
            raise LessonError(
                "The adapter holds NaN or infinity, first in {name}. Load the last good checkpoint and "
                "lower the learning rate.",
                name=name,
            )
    settings: Any = model.active_peft_config  # other methods than LoRA lack these fields
    trains_more = bool(getattr(settings, "modules_to_save", None)) or _rows_have_moved(model)
    outer = [weight for name, weight in adapter.items() if "lora_B" in name or "lora_embedding_B" in name]
    if outer and not trains_more and not any(weight.any() for weight in outer):
        raise LessonError(
            "The adapter has no effect: every B matrix is zero, as before training. Check that "
            "trainer.train() ran to its end and that it is trainer.model that you save.",
        )


def _trained(model: Any) -> dict[str, Any]:
    """The weights of the adapter by their names: A and B, and the rows of new tokens."""
    return {
        name: weight for name, weight in model.named_parameters()
        if "lora_" in name or "trainable_tokens_delta" in name
    }


def _rows_have_moved(model: Any) -> bool:
    """Whether any row that is trained by itself differs from the one in the base."""
    for path, rows in trained_rows(model).items():
        adapter = model.get_submodule(path).token_adapter
        base = adapter.get_base_layer().weight[adapter.token_indices[adapter.active_adapters[0]]]
        if not rows.to(base).equal(base):
            return True
    return False


def _about(model: Any, kind: str) -> dict[str, str | None]:
    """What the marker says: the kind of export, and the base with the revision it was really loaded from."""
    config = model.get_base_model().config
    return {
        "kind": kind,
        "base": model.active_peft_config.base_model_name_or_path,
        "revision": getattr(config, "_commit_hash", None),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON that is the same for the same content."""
    written = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    path.write_text(written, encoding="utf-8")


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def replacing(folder: Path, kind: str, size: int) -> Iterator[Path]:
    """A hidden folder to write into; if the block ends well it takes the place of `folder`, else it goes.

    What an earlier call left when its process was killed is cleared up first: an unfinished folder is
    removed, an old export that was already moved aside is put back.
    """
    folder = folder.expanduser().resolve()
    staging, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for left_over in (staging, old):
        shutil.rmtree(left_over, ignore_errors=True)
    _check_place(folder, kind)
    check_disk(folder.parent, size + BESIDE_WEIGHTS)
    staging.mkdir()
    try:
        yield staging
        if folder.exists():
            folder.rename(old)
        try:
            staging.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_place(folder: Path, kind: str) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    marker = folder / MARKER
    found = json.loads(marker.read_text(encoding="utf-8"))["kind"] if marker.is_file() else None
    if found != kind:
        raise LessonError(
            "{folder} exists already and is no lessonlib export of the kind {kind!r}, so it must not be "
            "overwritten. Choose another folder.",
            folder=folder, kind=kind,
        )


def check_disk(parent: Path, needed: int) -> None:
    """Raises LessonError where the disk under `parent` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise LessonError(
            "The disk is too full: {needed:.2f} GB are needed in {parent}, {free:.2f} GB are free. Delete "
            "old checkpoints, or choose a folder on another disk (for temporary files: point TMPDIR there "
            "before you start Jupyter).",
            needed=needed / 1000000000.0, parent=parent, free=free / 1000000000.0,
        )
