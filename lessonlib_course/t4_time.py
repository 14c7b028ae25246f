"""How long a lesson takes: reading, running on a T4, exercises. Computed, never measured.

The counts come from a dry run (tokens trained, answers and their tokens, at the uncut numbers), the speeds
are the assumptions below. They are round, and a T4 that somebody times replaces them.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lessonlib_course import source

# NVIDIA's data sheet of the T4 (2019): 65 TFLOP/s in fp16 on tensor cores, 320 GB/s.
FLOPS, BANDWIDTH = 65e12, 320e9
USED_FLOPS = 0.30  # assumed share that a small batch of a real model reaches
USED_BANDWIDTH = 0.5  # assumed, while one token at a time is written
LAYER_SECONDS = 1.2e-3  # assumed: what Python and kernel launches cost a block for each token, in fp16
SLOWER_4BIT = 1.5  # assumed: unpacking nf4 before each product
DOWNLOAD = 50e6  # bytes a second, assumed, from the Hub to Colab
GGUF_TOKEN = 0.20  # s a token from q4_k_m on two vCPUs: facts from f16 (0.65 s) by the size of the file
SETUP = 3.0  # minutes, assumed: packages, imports, restart
# Minutes, assumed: llama.cpp ready-made (compiled: 10 to 15 more), conversion, quantisation, parity.
GGUF_LESSON = 9.0
# LoRA: FLOP a weight and token forward, and for activations' gradients; checkpointing goes forward again.
FORWARD, BACKWARD = 2, 2
WORDS_A_MINUTE = 180  # assumed, technical prose
EXERCISE_MINUTES = 8  # assumed for each


@dataclass(frozen=True)
class Size:
    """The numbers of a real model that time depends on: parameters and blocks."""

    parameters: int
    layers: int


def sizes() -> dict[str, Size]:
    """Of each model that has a twin, from the catalogue's numbers."""
    from lessonlib.models._loading import CATALOGUE, skeleton

    real = {key: skeleton(key) for key, model in CATALOGUE.items() if model.twin is not None}
    return {
        key: Size(sum(weight.numel() for weight in model.parameters()), model.config.num_hidden_layers)
        for key, model in real.items()
    }


def t4_minutes(counts: Iterable[Mapping[str, Any]], known: Mapping[str, Size]) -> dict[str, float]:
    """Minutes that one lesson runs on a T4.

    training   tokens x parameters x (forward + backward + forward again with checkpointing) / speed
    losses     tokens x parameters x forward / speed
    answers    prompts as losses; then for each step of a batch the larger of the time to read all weights and
               that of the blocks' launches
    gguf       tokens on the CPU
    download, setup

    Args:
        counts: of a dry run (`ledger.Recorder`), with their model's key.
        known: from `sizes`.

    Returns:
        minutes by part, and "total".
    """
    counts = list(counts)
    parts = dict.fromkeys(("setup", "download", "training", "answers", "losses", "gguf"), 0.0)
    parts["setup"] = SETUP
    for key in sorted({count["model"] for count in counts if count.get("model")}):
        parts["download"] += 2 * known[key].parameters / DOWNLOAD / 60
    for count in counts:
        if count["what"] == "gguf":
            parts["gguf"] += count["tokens"] * GGUF_TOKEN / 60
            continue
        if not count.get("model"):
            continue  # a small real model, timed where it runs
        size, slower = known[count["model"]], SLOWER_4BIT if count["four_bit"] else 1
        token = size.parameters * slower / (FLOPS * USED_FLOPS)  # seconds for one FLOP a weight
        if count["what"] == "training":
            each = FORWARD + BACKWARD + (FORWARD if count["checkpointing"] else 0)
            parts["training"] += count["tokens"] * each * token / 60
        elif count["what"] == "losses":
            parts["losses"] += count["tokens"] * FORWARD * token / 60
        else:
            # bytes; head and embeddings stay in fp16
            weights = size.parameters * (0.6 if count["four_bit"] else 2)
            step = max(weights / (BANDWIDTH * USED_BANDWIDTH), size.layers * LAYER_SECONDS * slower)
            parts["answers"] += (count["prompt_tokens"] * FORWARD * token + count["steps"] * step) / 60
    if parts["gguf"]:
        parts["gguf"] += GGUF_LESSON
    return parts | {"total": sum(parts.values())}


def reading_minutes(lesson: source.Lesson, language: str = "en") -> int:
    """From the words of the prose, code and addresses left out."""
    prose = " ".join(cell.prose[language] for cell in lesson.cells if cell.prose)
    words = re.sub(r"```.*?```|https?://\S+", " ", prose, flags=re.DOTALL).split()
    return math.ceil(len(words) / WORDS_A_MINUTE)


def exercise_minutes(lesson: source.Lesson) -> int:
    """From the number of exercises: cells whose id begins with "exercise-", without their help."""
    code = [cell.id for cell in lesson.cells if not cell.prose and cell.id.startswith("exercise-")]
    return EXERCISE_MINUTES * sum(not name.endswith("-help") for name in code)


def stored(root: Path, number: str) -> list[dict[str, Any]]:
    """The counts that benchmarks/ledger.py kept of a lesson; empty where it has not run."""
    file = root / "benchmarks" / "ledger" / f"{number}.json"
    return json.loads(file.read_text(encoding="utf-8"))["counts"] if file.is_file() else []


def table(root: Path) -> str:
    """Reading, running and exercises of every lesson with stored counts, in minutes, as Markdown."""
    known = sizes()
    lines = ["| lesson | reading | running on a T4 | exercises |", "|---|---|---|---|"]
    for path in source.sources(root):
        lesson = source.parse(path)
        counts = stored(root, lesson.number)
        run = f"{t4_minutes(counts, known)['total']:.0f}" if counts else "-"
        read = reading_minutes(lesson)
        lines.append(f"| {lesson.number} | {read} | {run} | {exercise_minutes(lesson)} |")
    return "\n".join(lines)
