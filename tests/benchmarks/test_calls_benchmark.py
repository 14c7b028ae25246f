"""benchmarks/function_calls.py trains with lesson 04's numbers, and its table holds what it says."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("calls", ROOT / "benchmarks" / "function_calls.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recipe_is_the_lesson_s(benchmark):
    lesson = (ROOT / "lessons" / "04_gemma_function_calling.py").read_text(encoding="utf-8")
    recipe = benchmark.TRAINING | {"alpha": benchmark.LORA["alpha"], "dropout": benchmark.LORA["dropout"]}
    for name, value in recipe.items():
        written = {6e-3: "6e-3"}.get(value, value)
        quoted = f'"{written}"' if isinstance(value, str) else str(written)
        assert f"{name}=rt.pick(rehearsal={quoted}," in lesson or f"{name}={quoted}," in lesson, name
    assert f"lora_config(base, r={benchmark.LORA['r']}," in lesson
    assert f'STYLE = rt.pick(rehearsal="{benchmark.STYLE}",' in lesson
    assert f"MAX_LENGTH = rt.pick(rehearsal={benchmark.LENGTH}," in lesson


def test_rates_of_a_perfect_and_of_a_silent_model(benchmark, monkeypatch):
    from lessonlib import tools
    from lessonlib.data import _splits as data

    splits = data.load_chats("function_calls")
    splits = {split: splits[split].select(range(12)) for split in benchmark.SPLITS}
    wanted = [turn for split in splits.values() for turn in tools.turns(split, which="all")]
    monkeypatch.setattr(tools, "prompts", lambda turns, *_, **__: turns)

    def perfect(_model, _tokenizer, turns, **_options):
        texts = tools.render
        return [texts([*turn["history"], turn["expected"]], turn["tools"])[-1]["content"] for turn in turns]

    monkeypatch.setattr(tools, "replies", perfect)
    right = benchmark.rates(None, None, splits)
    assert right["test: right calls"].startswith("1.00") and "0.00" in right["test: valid requests refused"]
    monkeypatch.setattr(tools, "replies", lambda _model, _tokenizer, turns, **_: [""] * len(turns))
    silent = benchmark.rates(None, None, splits)
    assert silent["test: right calls"].startswith("0.00") and len(wanted) > 30
    assert silent["test: valid requests refused"].startswith("1.00")
