"""benchmarks/recipe.py measures the numbers that lesson 01 trains with."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("recipe", ROOT / "benchmarks" / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lesson():
    return (ROOT / "lessons" / "01_bloom_560m.py").read_text(encoding="utf-8")


def test_our_recipe_is_the_lessons(recipe, lesson):
    ours, lora = recipe.LESSON["training"], recipe.LESSON["lora"]
    assert f"lora_config(model, r={lora['r']}, alpha={lora['alpha']}, dropout={lora['dropout']})" in lesson
    assert "RATE = rt.pick(rehearsal=3e-3," in lesson and ours["learning_rate"] == 3e-3
    for name in ("per_device_train_batch_size", "warmup_steps"):
        assert f"{name}={ours[name]}" in lesson


def test_the_articles_recipe_is_the_lessons(recipe, lesson):
    theirs, lora = recipe.ARTICLE["training"], recipe.ARTICLE["lora"]
    assert f"LoraConfig(r={lora['r']}, lora_alpha={lora['alpha']}, lora_dropout={lora['dropout']}" in lesson
    assert f'padding="max_length", max_length={recipe.ARTICLE["length"]}' in lesson
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_steps", "warmup_steps"):
        assert f"{name}={theirs[name]}" in lesson
    assert "learning_rate=2e-4" in lesson and theirs["learning_rate"] == 2e-4
