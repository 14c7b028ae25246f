"""The ledger of a dry run and the time on a T4: counted by hand on small cases."""

import gc
import sys
from pathlib import Path

import pytest

from lessonlib.lora import lora_config
from lessonlib.models import skeleton
from lessonlib.runtime import twin_dir
from lessonlib.training import memory_plan
from lessonlib_course import ledger, source, t4_time

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def twin():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(twin_dir("bloom"))


def test_a_twin_counts_as_the_real_model(twin):
    sizes = ledger.Sizes("bloom-560m", twin.config.num_hidden_layers)
    numbers = sum(sizes.bytes(name, weight)[1] for name, weight in twin.named_parameters())
    assert numbers == skeleton("bloom-560m").num_parameters()


def test_adapters_and_frozen_weights_agree_with_the_plan(twin):
    from copy import deepcopy

    from peft import get_peft_model

    settings = lora_config(twin, r=8, alpha=16)
    tuned = get_peft_model(deepcopy(twin), settings)
    sizes = ledger.Sizes("bloom-560m", twin.config.num_hidden_layers)
    base = tuned.get_base_model()
    counted = sum(sizes.bytes(name, weight)[0] for name, weight in base.named_parameters())
    real = skeleton("bloom-560m")
    plan = memory_plan(real, lora=lora_config(real, r=8, alpha=16), batch_size=1, length=8)
    exact = plan.set_index("part")["bytes"]
    assert counted == pytest.approx(exact["weights"] + exact["adapters"], rel=0.001)


def test_a_model_that_waits_to_be_collected_counts(twin):
    from copy import deepcopy

    gc.collect()
    gc.disable()
    try:
        before = sum(size for _, size in ledger.measure())
        gone = deepcopy(twin)
        gone.itself = [gone]  # a ring, as a trainer and its model are
        del gone
        waiting = sum(size for _, size in ledger.measure())
        gc.collect()
        after = sum(size for _, size in ledger.measure())
    finally:
        gc.enable()
    assert waiting - before == 2 * skeleton("bloom-560m").num_parameters()
    assert after == before


def test_the_fullest_moment_of_a_cell_stands_in_the_table():
    line = {
        "alive": [["base", 2 * ledger.GIB]], "host": ledger.GIB, "counts": [],
        "peaks": [{"when": "merge and save", "alive": [["base", 2 * ledger.GIB], ["merged", 12 * ledger.GIB]],
                   "extra": 0, "host": 2 * ledger.GIB, "plan": None}],
    }  # fmt: skip
    (row,) = ledger.rows([line], ["save"])
    assert (row["gpu"], row["host"], row["when"], row["over"]) == (14, 3, "merge and save", True)
    assert "**over**" in ledger.markdown("01", [row])


def test_wrappers_reach_every_name_and_answer_for_the_function(monkeypatch):
    import lessonlib.evaluation
    import lessonlib.evaluation._answers as answers

    real = answers.answer_loss
    for module in [module for name, module in sys.modules.items() if name.startswith("lessonlib")]:
        for name, value in list(vars(module).items()):
            if value is real:
                monkeypatch.setattr(module, name, value)  # put back afterwards
    ledger._replace(real, lambda function, *given: (function is real, given))
    assert lessonlib.evaluation.answer_loss(1, 2) == answers.answer_loss(1, 2) == (True, (1, 2))


def test_minutes_grow_with_what_is_counted():
    known = {"m": t4_time.Size(1_000_000_000, 20)}
    train = {"what": "training", "model": "m", "four_bit": False, "tokens": 1_000_000, "checkpointing": False}
    plain = t4_time.t4_minutes([train], known)
    # 1e6 tokens x 4 FLOP x 1e9 weights at 30% of 65 TFLOP/s: 205 s
    assert plain["training"] == pytest.approx(4e15 / (0.3 * 65e12) / 60)
    again = t4_time.t4_minutes([train | {"checkpointing": True}], known)
    assert again["training"] == pytest.approx(1.5 * plain["training"])
    assert plain["total"] == pytest.approx(sum(value for part, value in plain.items() if part != "total"))


def test_each_lesson_has_reading_and_exercises():
    for path in source.sources(ROOT):
        lesson = source.parse(path)
        assert t4_time.reading_minutes(lesson) > 10
        assert t4_time.exercise_minutes(lesson) >= 8
