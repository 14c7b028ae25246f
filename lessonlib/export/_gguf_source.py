"""What a folder has to be before llama.cpp's converter may work on it, and what the work will take.

It reads file names, JSON and the headers of safetensors; it loads no weight and starts nothing.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lessonlib.export._saving import MARKER, sha256
from lessonlib.runtime._language import LessonError

# Bytes for each weight of a matrix; of q4_k_m at the most, for what it stores in 6 bits.
SIZES = {"f32": 4.0, "f16": 2.0, "q8_0": 8.5 / 8, "q4_k_m": 6.5625 / 8}
_WEIGHTS = "model*.safetensors"
_IDENTITY = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")  # what a GGUF file is made of


def checked(folder: str | os.PathLike) -> Path:
    """The folder of a model, if it is one that can be converted as it is.

    Args:
        folder: as `lessonlib.export.merge` or `save_pretrained` writes it.

    Returns:
        Its resolved path.

    Raises:
        LessonError: no such folder; an adapter; no model; a quantised one; code of its own; no safetensors.
    """
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise LessonError("There is no folder {path}.", path=path)
    if (path / "adapter_config.json").is_file():
        raise LessonError(
            "{path} is an adapter and no whole model. Merge first: export.merge(model, tokenizer, folder), "
            "then convert that folder.",
            path=path,
        )
    config = _json(path / "config.json")
    if not config:
        raise LessonError(
            "{path} has no config.json, so it is no model. Give the folder that export.merge wrote.",
            path=path,
        )
    if config.get("quantization_config"):
        raise LessonError(
            "The model in {path} is quantised. GGUF is made of 16-bit weights: save it with export.merge, "
            "which widens a 4-bit model.",
            path=path,
        )
    if any("auto_map" in _json(path / name) for name in ("config.json", "tokenizer_config.json")):
        raise LessonError(
            "{path} brings Python code of its own (auto_map), and code of a repository is not run here. Use "
            "a model whose architecture is in transformers.",
            path=path,
        )
    if not any(path.glob(_WEIGHTS)):
        raise LessonError(
            "{path} has no {weights}. Save it again with export.merge; .bin files are pickles, which can "
            "run foreign code and are not read.",
            path=path, weights=_WEIGHTS,
        )
    return path


def shapes(folder: Path) -> list[tuple[int, ...]]:
    """The shape of each tensor, from the headers of the files.

    Raises:
        LessonError: a damaged or half-downloaded file.
    """
    from safetensors import SafetensorError, safe_open

    found: list[tuple[int, ...]] = []
    for file in sorted(folder.glob(_WEIGHTS)):
        try:
            with safe_open(file, framework="np") as weights:
                found += [tuple(weights.get_slice(name).get_shape()) for name in weights.keys()]  # noqa: SIM118
        except SafetensorError as error:
            raise LessonError(
                "{file} is damaged or half-written ({error}). Export it again with export.merge.",
                file=file, error=error,
            ) from error
    return found


def size(tensors: Iterable[Sequence[int]], kind: str) -> int:
    """Bytes of a GGUF file's weights: matrices in the kind's type, all else in fp32."""
    return sum(int(math.prod(shape) * (SIZES[kind] if len(shape) > 1 else 4)) for shape in tensors)


def identity(folder: Path) -> str:
    """SHA-256 of all that a GGUF file is made of: weights, configuration, tokenizer and chat template.

    The model card is left out, which may be written later; so is lessonlib's marker.
    """
    files = {file for pattern in _IDENTITY for file in folder.glob(pattern) if file.name != MARKER}
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(f"{file.name} {sha256(file)}\n".encode())
    return whole.hexdigest()


def check_name(name: str) -> None:
    """Check that a model's name can be part of a file name on every system.

    Raises:
        LessonError: for other characters than a to z, digits, dots, underscores and hyphens.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise LessonError(
            "{name!r} cannot be a file name everywhere. Use letters a to z, digits, dots, underscores and "
            "hyphens.",
            name=name,
        )


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
