"""benchmarks/gpu.py rehearsed in small on the CPU: every part, its table and JSON, and what fails in it."""

import argparse
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lessonlib.training import _memory as memory

ROOT = Path(__file__).parents[2]
FILE = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FILE.parent), *sys.path])
        yield importlib.import_module("gpu")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """(what it printed, what it wrote) with two steps for each kind of training."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [sys.executable, str(FILE), "--small", "--steps", "2", "--minutes", "20", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(out.read_text(encoding="utf-8"))


def test_every_part_does_all_of_its_work(rehearsed):
    found = {}
    for row in rehearsed[1]["rows"]:
        found.setdefault(row["part"], []).append(row["what"])
    padded = ["answers, padded on the left", "its logits beside those without padding"]
    assert found == {
        "01": [*padded, "one head's scores at -20", "article: 2 steps", "article: dropped", "mended: 2 steps",
               "merge", "mended: dropped"],
        "02": [*padded, "LoRA: 2 steps", "LoRA: dropped", "QLoRA: 2 steps", "merge", "QLoRA: dropped"],
        "04": [*padded, "tool calls: 2 steps", "merge", "tool calls: dropped", "lab: 2 steps",
               "lab: answers", "lab: dropped"],
        "03": ["transformers: 2 steps", "transformers: dropped", "Unsloth beside plain"],
        "03-unsloth": ["unsloth: 2 steps", "unsloth: dropped"],
    }  # fmt: skip


def test_the_table_and_the_json_say_the_same(rehearsed):
    printed, written = rehearsed
    for row in written["rows"]:
        assert row["ok"] and row["said"] in printed and row["what"] in printed
    assert (written["small"], written["steps"], written["cap_gib"]) == (True, 2, 14.2)
    low = next(row for row in written["rows"] if row["what"].startswith("one head"))
    assert low["said"] == "finite with the guard, NaN without the guard"
    assert "peak not measured" in printed


@pytest.fixture
def bench(benchmark, tmp_path):
    return benchmark.Bench("01", tmp_path, small=True, cap=14.2, steps=1)


def written_by(bench):
    lines = (bench.folder / f"{bench.part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_what_fails_is_a_row_and_the_part_goes_on(benchmark, bench, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(benchmark, "answers", full)
    monkeypatch.setattr(benchmark, "steps", lambda bench, what, *_, **__: bench.note(what, "done", ok=True))
    benchmark.lesson01(bench)
    first, *rest = written_by(bench)
    assert first["what"] == "answers" and not first["ok"]
    assert first["said"] == "FAILED, OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert [(row["what"], row["ok"]) for row in rest] == [("article", True), ("mended", True)]


CHOSEN = argparse.Namespace(small=True, cap=14.2, steps=1)


def test_a_part_that_dies_keeps_what_it_found_and_says_its_last_words(benchmark, bench, monkeypatch):
    bench.note("answers", "fine", ok=True)
    dead = subprocess.CompletedProcess([], -11, stdout="", stderr="one\ntwo\nCUDA error: an illegal address")
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *_, **__: dead)
    fine, problem = benchmark.run("01", bench.folder, CHOSEN, 9.0)
    assert fine["ok"] and not problem["ok"]
    assert problem["said"] == "FAILED, ended with -11: one | two | CUDA error: an illegal address"


def test_a_part_that_takes_too_long_is_cut_off(benchmark, bench, monkeypatch):
    def slow(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(benchmark.subprocess, "run", slow)
    assert benchmark.run("01", bench.folder, CHOSEN, 9.0) == [
        {"part": "01", "what": "the part", "said": "FAILED, cut off after 9 s", "ok": False}
    ]


def test_parts_beyond_the_time_are_left_out_and_said(benchmark, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "gpu.json")
    arguments = ["gpu.py", "--small", "--minutes", "0", "--parts", "01", "02", "--out", out]
    monkeypatch.setattr(sys, "argv", arguments)
    assert benchmark.main() == 1
    assert capsys.readouterr().out.count("not run: out of time") == 2


@pytest.mark.parametrize(
    ("peak", "plan", "at_most", "fine"),
    [
        (10.9, 10.0, False, True), (11.1, 10.0, False, False), (8.9, 10.0, False, False),
        (8.9, 10.0, True, True), (11.1, 10.0, True, False), (0.0, 10.0, False, True),
    ],
)  # fmt: skip
def test_peak_and_plan_may_be_a_tenth_apart(benchmark, peak, plan, at_most, fine):
    said, verdict = benchmark.verdict(peak, plan, at_most=at_most)
    assert verdict is fine and "plan 10.00" in said


def test_one_step_has_no_speed(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--small", "--steps", "1"])
    assert benchmark.main() == 2 and "at least 2 --steps" in capsys.readouterr().out


def test_unsloth_beside_plain(benchmark):
    plain = {"part": "03", "speed": 100.0, "peak": 8.0}
    unsloth = {"part": "03-unsloth", "speed": 180.0, "peak": 6.0}
    (row,) = benchmark.beside([plain, {"part": "03"}, unsloth])
    assert row["said"] == "1.80 x the speed, 0.75 x the peak"
    assert benchmark.beside([plain]) == []


def test_the_card_says_what_a_t4_says(benchmark, monkeypatch):
    from types import SimpleNamespace

    capped = []
    for name in ("get_device_capability", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * memory.GIB)
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: capped.append(given))
    benchmark.as_a_t4(14.2)
    assert capped == [(14.2 / 80, 0)]
    assert torch.cuda.get_device_capability(device=0) == (7, 5) and not torch.cuda.is_bf16_supported()


def test_at_full_size_everything_is_in_fp16_and_as_the_lessons_have_it(benchmark, bench, monkeypatch):
    """The number format, quantisation and attention that lessons get on a T4."""
    monkeypatch.setattr(bench, "small", False)
    got = {}
    for key in benchmark.FAMILIES:
        rt = bench.runtime(key)
        assert (rt.profile, rt.device, rt.dtype) == ("t4", "cuda", "float16")
        got[key] = (rt.quantisation, rt.attention)
    assert got == {
        "bloom-560m": ("none", "eager"), "phi-3-mini": ("nf4", "sdpa"),
        "llama-3.2-3b": ("nf4", "sdpa"), "gemma-2-2b": ("nf4", "eager"),
    }  # fmt: skip
    config, tokenizer = benchmark.blueprint("phi-3-mini", small=False)
    assert (config.hidden_size, config.vocab_size) == (3072, 32064) and len(tokenizer) < 32064


@pytest.mark.parametrize(
    ("part", "file", "what"),
    [("02", "02_phi3_lora", "QLoRA"), ("03", "03_llama32_unsloth", "transformers"),
     ("04", "04_gemma_function_calling", "tool calls")],
)  # fmt: skip
def test_batches_lengths_and_optimisers_are_the_lessons(benchmark, bench, monkeypatch, part, file, what):
    taken = {}
    monkeypatch.setattr(benchmark, "answers", lambda *_, **__: None)
    monkeypatch.setattr(benchmark, "steps", lambda bench, what, key, **said: taken.update({what: said}))
    benchmark.PARTS[part](bench)
    lesson = (ROOT / "lessons" / f"{file}.py").read_text(encoding="utf-8")

    def on_a_t4(name):
        found = re.search(rf"{name} ?= ?rt\.pick\([^)]*\bt4=\"?(\w+)", lesson)
        assert found, f"{file} does not pick {name} any more"
        return found[1]

    assert str(taken[what]["batch"]) == on_a_t4("per_device_train_batch_size")
    assert str(taken[what]["length"]) == on_a_t4("MAX_LENGTH")
    assert str(taken[what]["accumulation"]) == on_a_t4("gradient_accumulation_steps")
    assert f'"{taken[what]["optim"]}"' in lesson


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would run")
def test_without_a_gpu_it_says_in_a_line_what_it_would_do():
    done = subprocess.run([sys.executable, str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout.count("\n") == 1
    assert done.stdout.startswith("No CUDA GPU here: on one, this would run the parts 01, 02, 04, 03, 03-uns")
