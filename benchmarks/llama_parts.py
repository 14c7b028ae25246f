"""The parts of benchmarks/llama.py: each function here is the work of one process, or a piece of it.

Importing this file imports no torch, because llama.py's own process must stay small.
"""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a clone, without installing

if TYPE_CHECKING:
    from datasets import Dataset

KEY = "llama-3.2-3b"
# Lesson 03's values, most of them those of Unsloth's own notebook.
LESSON: dict[str, Any] = {
    "data": ("customer_support_vi", "counseling_vi"),
    "template_options": {"date_string": "26 Jul 2024"},  # else the template writes today's date
    "length": 2048,
    "lora": {"r": 16, "alpha": 16, "dropout": 0.0},  # on all seven linear layers of a block
    "training": {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "warmup_steps": 5,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "weight_decay": 0.001,
        "optim": "adamw_8bit",
    },
}
CPU_OPTIMISER = "adamw_torch"  # on a CPU Unsloth replaces the 8-bit one by this
BACKENDS = {"plain": "transformers", "unsloth": "unsloth"}
# How rows become batches: what SFTConfig is told.
BATCHINGS: dict[str, dict[str, Any]] = {
    "padded": {"pad_to_multiple_of": LESSON["length"]},
    "dynamic": {},
    "grouped": {"train_sampling_strategy": "group_by_length"},
    "packing": {"packing": True, "packing_strategy": "bfd", "max_length": LESSON["length"]},
}
RUNS = [f"{backend}/{batching}" for batching in BATCHINGS for backend in BACKENDS]
WARM_UP = 5  # steps whose time is not counted in the speed: first calls allocate, and Unsloth compiles
ORDERS = 50  # shuffles over which a share is averaged
GIB = 2**30
# Names of what a run hands back, as the report shows them.
SPEED = "content tokens per {second}"
SECONDS = "seconds by the clock, all steps"
ABOVE = "peak RSS above that before loading, MB"
RSS = "peak RSS, MB"
LOADING = "peak reserved while loading, GiB"
RESERVED = "peak reserved, GiB"
ALLOCATED = "peak allocated, GiB"


# --- what share of the computed tokens is content


def padded_share(lengths: Sequence[int], batch: int) -> float:
    """Content among the tokens of batches of `batch` rows in this order, each padded to its longest row."""
    batches = [lengths[at : at + batch] for at in range(0, len(lengths), batch)]
    return sum(lengths) / sum(len(rows) * max(rows) for rows in batches)


def shares(lengths: list[int], batch: int, accumulation: int, length: int) -> dict[str, float]:
    """Content among the computed tokens for each of BATCHINGS, from the rows' lengths alone.

    Args:
        lengths: tokens of each row, none above `length`.
        batch: rows of a forward pass.
        accumulation: forward passes of an optimiser step; rows of like length are grouped by step.
        length: what rows are padded to, or packed into.

    Returns:
        A share for each batching (over many shuffles, where these matter), and "filled": how full packs are.
        What a pack lacks is not computed, as trl lays the packs of a batch end to end.
    """
    import torch
    from datasets import Dataset
    from transformers.trainer_pt_utils import get_length_grouped_indices
    from trl import pack_dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    content, step = sum(lengths), batch * accumulation
    draw = torch.Generator().manual_seed(0)
    shuffled = [torch.randperm(len(lengths), generator=draw).tolist() for _ in range(ORDERS)]
    grouped = [get_length_grouped_indices(lengths, step, generator=draw) for _ in range(ORDERS)]

    def over(orders: list[list[int]]) -> float:
        found = [padded_share([lengths[row] for row in order], batch) for order in orders]
        return statistics.harmonic_mean(found)  # their content is the same: all content over all computed

    packs = pack_dataset(Dataset.from_dict({"input_ids": [[0] * size for size in lengths]}), length, "bfd")
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batches = [collate(list(packs.select(range(at, min(at + batch, len(packs)))))) for at in
               range(0, len(packs), batch)]  # fmt: skip
    return {
        "padded": content / (len(lengths) * length),
        "dynamic": over(shuffled),
        "grouped": over(grouped),
        "packing": content / sum(it["input_ids"].numel() for it in batches),
        "filled": content / (len(packs) * length),
    }


def table_of_shares() -> dict[str, dict[str, float]]:
    """`shares` for each dataset of the lesson and for all together, with rows and tokens."""
    tokenizer = twins_tokenizer()
    lengths = {name: [len(ids) for ids in rows(tokenizer, [name])["input_ids"]] for name in LESSON["data"]}
    lengths["together"] = [length for those in lengths.values() for length in those]
    training = LESSON["training"]
    step = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    return {
        name: {"rows": len(those), "tokens": sum(those)} | shares(those, *step, LESSON["length"])
        for name, those in lengths.items()
    }


def twins_tokenizer() -> Any:
    """The tokenizer that ships with the course."""
    from lessonlib.models import _loading as models
    from lessonlib.runtime import _detect as runtime

    with tempfile.TemporaryDirectory() as work:
        backend = BACKENDS["plain"]
        here = runtime.detect(family="llama", profile="rehearsal", gpu=None, backend=backend, work=work)
    return models.load_tokenizer(KEY, here)


def rows(tokenizer: Any, names: Sequence[str]) -> "Dataset":
    """The training rows of these datasets: input_ids and labels, loss on the assistant's turns."""
    from datasets import concatenate_datasets

    from lessonlib import data, formatting

    options = {"max_length": LESSON["length"], "template_options": LESSON["template_options"]}
    return concatenate_datasets([
        formatting.encode_chats(data.load_chats(name)["train"], tokenizer, **options) for name in names
    ])


# --- one run


class Tokens:
    """Tokens that went through the model in training."""

    def __init__(self, model: Any) -> None:
        self._computed = 0
        self._content: Any = 0  # stays on the device: fetching it would make each forward pass wait

        def count(module: Any, arguments: tuple, keywords: dict[str, Any]) -> None:
            if module.training:
                mask, ids = keywords.get("attention_mask"), keywords["input_ids"]
                self._computed += ids.numel()
                self._content = self._content + (ids.numel() if mask is None else mask.sum())

        model.register_forward_pre_hook(count, with_kwargs=True)

    def read(self) -> tuple[int, int]:
        """(computed, content) so far."""
        return self._computed, int(self._content)


def clock(tokens: Tokens, device: str) -> Any:
    """A Trainer callback that notes CPU seconds, seconds by the clock and tokens: at first, warm, at last."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        marks: list[tuple[float, float, int, int]]

        def mark(self) -> None:
            if device == "cuda":
                import torch

                torch.cuda.synchronize()
            self.marks.append((time.process_time(), time.perf_counter(), *tokens.read()))

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.marks = []
            self.mark()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (WARM_UP, state.max_steps):
                self.mark()

    return Clock()


def runtime_for(backend: str, gpu: bool, work: str) -> Any:
    """The lesson's runtime on a T4 (fp16, nf4) or in rehearsal, with this backend and no other."""
    from lessonlib.runtime import _detect as runtime

    settings: dict[str, Any] = {"profile": "rehearsal"}
    if gpu:
        settings = {"profile": "t4", "dtype": "float16", "quantisation": "nf4"}
    found = runtime.detect(family="llama", backend=backend, work=work, **settings)
    if found.backend != backend:  # it has said why; plain against plain would be no comparison
        raise SystemExit(f"The backend {backend} cannot be used here.")
    return found


def cap_memory(cap: float) -> None:
    """Let torch use no more than `cap` GiB of the first CUDA device, as if it were a smaller card."""
    import torch

    whole = torch.cuda.get_device_properties(0).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / whole), 0)


def peak_gpu() -> tuple[float, float]:
    """The most GiB that torch has (reserved, allocated) on the device so far."""
    import torch

    return torch.cuda.max_memory_reserved() / GIB, torch.cuda.max_memory_allocated() / GIB


def peak_rss() -> float:
    """The most memory that this process has held so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def train(run: str, steps: int, *, gpu: bool = False, cap: float = 14.7, folder: str = "") -> dict[str, Any]:
    """Train as the lesson does, and measure.

    Args:
        run: one of RUNS.
        steps: optimiser steps, more than WARM_UP.
        gpu: the model in `folder` in 4 bits on the first CUDA device, else the twin in fp32 on the CPU.
        cap: GiB of the device's memory that torch may use.
        folder: from `build`.

    Returns:
        See `measured`.
    """
    import random_model

    backend, batching = run.split("/")
    with tempfile.TemporaryDirectory() as work:
        runtime = runtime_for(BACKENDS[backend], gpu, work)
        if gpu:
            cap_memory(cap)
        # All that a run imports, after Unsloth: it is not to be counted as the model's memory.
        from peft import PeftModel  # noqa: F401
        from trl import SFTTrainer  # noqa: F401

        from lessonlib import lora, training
        from lessonlib.models import _loading as models

        settings = LESSON["training"] | BATCHINGS[batching] | ({} if gpu else {"optim": CPU_OPTIMISER})
        settings |= {"max_steps": steps, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
        config = training.sft_config(runtime, "run", **settings)
        with random_model.served_from(Path(folder)) if gpu else nullcontext():
            encoded = rows(models.load_tokenizer(KEY, runtime), LESSON["data"])
            before = peak_rss()
            model, tokenizer = models.load(KEY, runtime)
        adapted = lora.attach(model, lora.lora_config(model, **LESSON["lora"]), runtime)
        memory = {LOADING: peak_gpu()[0]} if gpu else {}
        tokens = Tokens(adapted)
        watch = clock(tokens, runtime.device)
        made = training.trainer(adapted, tokenizer, encoded, config=config, callbacks=[watch])
        training.fit(made)
        if gpu:
            memory |= dict(zip((RESERVED, ALLOCATED), peak_gpu(), strict=True))
        else:
            memory |= {ABOVE: peak_rss() - before, RSS: peak_rss()}
        return measured(watch.marks, training.history(made)["loss"].tolist(), memory, gpu)


def measured(
    marks: list[tuple[float, float, int, int]], losses: list[float], memory: dict[str, float], gpu: bool
) -> dict[str, Any]:
    """What the report takes of a run.

    Args:
        marks: the clock's three: CPU seconds, seconds by the clock, computed tokens, content tokens.
        losses: of each step.
        memory: name -> MB or GiB, as the name says.
        gpu: speed is by the clock, else by CPU seconds.
    """
    first, warm, last = marks
    ticks = 1 if gpu else 0
    return {
        SPEED: (last[3] - warm[3]) / (last[ticks] - warm[ticks]),
        SECONDS: last[1] - first[1],
        **memory,
        "computed": last[2] - first[2],
        "content": last[3] - first[3],
        "losses": losses,
    }


def build(folder: str, device: str = "cuda") -> dict[str, int]:
    """Writes the real architecture with random weights, and the twin's tokenizer, which needs no download."""
    import random_model

    from lessonlib.models import _loading as models

    number = random_model.write(models.config(KEY), twins_tokenizer(), Path(folder), device=device)
    return {"weights": number}
