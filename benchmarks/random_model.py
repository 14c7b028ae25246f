"""A real architecture with random weights, written to a folder as a publisher would: no download.

Unsloth and transformers both load from a folder, and quantise while they load. So one folder of fp16 weights
gives both the same 4-bit model. One shard at a time is in memory.
"""

import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a clone, without installing

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

SHARD = 2**30  # bytes
BESIDE = 2**27  # bytes of tokenizer, configuration and shard headers, rounded up
INDEX = "model.safetensors.index.json"
FP16 = 2  # bytes of a number


def shapes(config: "PretrainedConfig") -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight in a checkpoint; a head tied to the embeddings is not among them."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def shards(sizes: dict[str, tuple[int, ...]], limit: int) -> list[list[str]]:
    """Names in their order, cut into groups of at most `limit` bytes (a larger weight stands alone)."""
    groups: list[list[str]] = []
    room = 0
    for name, shape in sizes.items():
        size = FP16 * math.prod(shape)
        if size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups


def check_disk(folder: Path, sizes: dict[str, tuple[int, ...]]) -> None:
    """Ends the program where the folder's disk has no room for the weights."""
    needed = FP16 * sum(map(math.prod, sizes.values())) + BESIDE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"The random model takes {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free. "
            "Choose another disk by the environment variable TMPDIR."
        )


def write(
    config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase", folder: Path, *, device: str = "cpu",
    limit: int = SHARD,
) -> int:  # fmt: skip
    """Writes config, tokenizer and random fp16 weights: normal with the config's initializer_range, norms of
    1, biases of 0.

    Args:
        config: of any decoder, such as models.config("llama-3.2-3b"). Its special tokens become the
            tokenizer's, which may know fewer tokens than the model.
        tokenizer: saved beside the weights, because Unsloth wants one there.
        folder: an existing, empty folder.
        device: where the numbers are drawn; a GPU takes seconds for billions.
        limit: bytes of a shard.

    Returns:
        How many weights there are.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, GenerationConfig

    sizes = shapes(config)
    check_disk(folder, sizes)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config.architectures = [model_class.__name__]
    config.dtype = torch.float16
    draw = torch.Generator(device).manual_seed(0)
    std = config.initializer_range

    def weight(name: str, shape: tuple[int, ...]) -> Any:
        if len(shape) == 1:  # a bias, or a norm; Gemma's norms multiply by 1 + weight
            zero = name.endswith("bias") or config.model_type.startswith("gemma")
            return torch.full(shape, 0.0 if zero else 1.0, dtype=torch.float16)
        drawn = torch.empty(shape, dtype=torch.float16, device=device)
        return drawn.normal_(std=std, generator=draw).cpu()

    groups = shards(sizes, limit)
    where: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        tensors = {name: weight(name, sizes[name]) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    total = FP16 * sum(map(math.prod, sizes.values()))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return total // FP16


@contextmanager
def served_from(folder: Path) -> Iterator[None]:
    """Inside, `lessonlib.models` loads every model and tokenizer from this folder, else as a lesson does."""
    from lessonlib.models import _loading as models

    with mock.patch.object(models, "source", lambda *_, **__: (str(folder), None)):
        yield
