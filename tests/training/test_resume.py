"""A training that is killed with SIGKILL and started again ends as one that was never killed.

Importing torch and trl takes seconds, so one process imports them once and forks a child for each start; the
children are killed. That process is this file, run as `python tests/training/test_resume.py FOLDER`.
"""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

STEPS, KEEP = 11, 2
# How each start is killed: at a file operation, after a step, with a file half written, before its marker is
# written, by the clock; or a file is damaged after the end. Which operation, and when, is drawn from a seed.
HALF = ("adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json")
SCENARIOS = {
    **{f"file operation {number}": [("operation",)] * 2 for number in range(6)},
    "step 1": [("step", 1)],
    "step 7": [("step", 7), ("step", 8)],
    **{f"half {name}": [("half", name, 2)] for name in HALF},
    "marker": [("marker", 1), ("marker", 2), ("marker", 2)],
    **{f"clock {number}": [("clock",)] * 2 for number in range(2)},
    "damaged afterwards": [("damage", "optimizer.pt")],
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What each scenario ended with, and the unbroken run."""
    folder = tmp_path_factory.mktemp("resume")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "LESSONLIB_LANG": "en",
                                "LESSONLIB_HEADLESS": "1"}  # fmt: skip
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "ended.json").read_text())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_weights_and_history_after_being_killed(ended, scenario):
    unbroken, broken = ended["unbroken"], ended[scenario]
    assert unbroken["killed"] == 0
    assert broken["killed"] >= 1 or scenario == "damaged afterwards"
    assert broken["weights"] == unbroken["weights"]  # hashes over every adapter weight: bit-identical
    assert broken["history"] == unbroken["history"]
    assert broken["train_loss"] == pytest.approx(unbroken["train_loss"], abs=1e-6)
    assert broken["num_tokens"] == unbroken["num_tokens"]
    assert broken["checkpoints"] == unbroken["checkpoints"] == ["checkpoint-9", f"checkpoint-{STEPS}"]


def test_the_unbroken_run_really_trains(ended):
    losses = [loss for loss in ended["unbroken"]["history"]["loss"] if loss is not None]
    assert losses[-1] < losses[0] - 0.05
    assert ended["unbroken"]["history"]["step"][-1] == STEPS
    assert len([loss for loss in ended["unbroken"]["history"]["eval_loss"] if loss is not None]) == 6


def test_it_says_that_it_goes_on_and_what_it_passes_over(ended):
    # Steps 7 and 8, where it was killed, are no checkpoints.
    assert ended["step 7"]["said"].count(f"Going on from step 6 of {STEPS}.") == 2
    assert "Passing over checkpoint-6: no lesson_complete.json" in ended["half optimizer.pt"]["said"]
    assert f"Passing over checkpoint-{STEPS}: optimizer.pt has" in ended["damaged afterwards"]["said"]


def test_a_finished_run_is_recognised(ended):
    again = ended["started again"]
    assert f"Finished earlier ({STEPS} steps)." in again["said"]
    assert again["files"] == ended["unbroken"]["files"]  # nothing was written
    for what in ("weights", "history", "checkpoints", "num_tokens"):
        assert again[what] == ended["unbroken"][what], what
    assert again["train_loss"] == pytest.approx(ended["unbroken"]["train_loss"], abs=1e-6)


# ---- from here on: the process that forks ----


def train(folder: Path, kill: tuple | None) -> None:
    """One start, in a forked child: build everything from nothing, as a notebook does, and fit."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models
    from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast, set_seed

    from lessonlib.runtime import _detect as runtime
    from lessonlib.training import _trainer as training

    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3} | {f"w{it}": it for it in range(4, 64)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    pick = random.Random(0)
    rows = []
    for _ in range(20):
        ids = [pick.randrange(4, 64) for _ in range(pick.randint(4, 14))] + [2]
        rows.append({"input_ids": ids, "labels": [-100, -100, *ids[2:]]})
    set_seed(1)
    base = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2))
    lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.1, target_modules=["query_key_value", "dense"])
    config = training.sft_config(
        runtime.detect(family="bloom", profile="rehearsal", work=folder), "run",
        max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=5e-2,
        logging_steps=4, eval_strategy="steps", eval_steps=2, save_steps=3, save_total_limit=KEEP,
    )  # fmt: skip
    trainer = training.trainer(
        get_peft_model(base, lora), tokenizer, Dataset.from_list(rows[4:]),
        eval_dataset=Dataset.from_list(rows[:4]), config=config,
    )  # fmt: skip
    torch.seed()  # what is drawn between the two, in a notebook's other cells, must not matter
    count = arm(kill, trainer)
    output = training.fit(trainer)
    history = training.history(trainer)
    result = {
        "weights": digests(trainer.model),
        "history": {name: [None if it != it else it for it in values] for name, values in history.items()},
        "train_loss": output.training_loss,
        "num_tokens": [record["num_tokens"] for record in trainer.state.log_history if "loss" in record],
        "checkpoints": sorted((path.name for path in (folder / "run").glob("checkpoint-*")), key=len),
        "files": {str(file): file.stat().st_mtime_ns for file in (folder / "run").rglob("*")},
        "operations": count[0],
    }
    (folder / "result.json").write_text(json.dumps(result))


def digests(model) -> dict[str, str]:
    import hashlib

    return {
        name: hashlib.sha256(parameter.detach().numpy().tobytes()).hexdigest()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kill: tuple | None, trainer) -> list[int]:
    """Arrange for this process to be killed; returns a counter of file operations."""
    import peft.peft_model
    import torch
    from transformers import TrainerCallback, TrainerState

    from lessonlib.training import _checkpoints as checkpoints

    kind, *what = kill or ("nothing",)
    count, run = [0], str(trainer.args.output_dir)

    def watch(event: str, arguments: tuple) -> None:
        writes = event == "open" and str(arguments[0]).startswith(run) and arguments[2] & os.O_WRONLY
        if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            count[0] += 1
            if kind == "operation" and count[0] == what[0]:
                die()

    sys.addaudithook(watch)
    if kind == "step":

        class Die(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == what[0]:
                    die()

        trainer.add_callback(Die())
    if kind == "half":
        name, number = what
        for module, function in (
            (torch, "save"), (peft.peft_model, "safe_save_file"), (TrainerState, "save_to_json"),
        ):  # fmt: skip
            setattr(module, function, half(getattr(module, function), name, number))
    if kind == "marker":
        write, seen = checkpoints._write, [0]

        def write_or_die(path, content):
            seen[0] += path.name == checkpoints._MARKER
            if seen[0] == what[0]:
                die()
            write(path, content)

        checkpoints._write = write_or_die
    return count


def half(function, name, number):
    """The function, but at its n-th writing of that file, half of it is written and the process killed."""
    seen = [0]

    def changed(*arguments, **keywords):
        done = function(*arguments, **keywords)
        path = next((it for it in arguments if isinstance(it, str | Path) and Path(it).name == name), None)
        if path is not None:
            seen[0] += 1
            if seen[0] == number:
                os.truncate(path, os.path.getsize(path) // 2)
                die()
        return done

    return changed


def start(folder: Path, kill: tuple | None, after: float | None = None) -> bool:
    """Fork a child that trains; True when it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            train(folder, kill)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, (folder / "said.txt").read_text()
    return False


def play(folder: Path, kills: list[tuple]) -> dict:
    """Start and kill, start and kill, and at last let it end."""
    folder.mkdir(exist_ok=True)
    killed = 0
    for *kill, after in kills:
        if kill[0] == "damage":
            start(folder, None)
            file = folder / "run" / f"checkpoint-{STEPS}" / kill[1]
            os.truncate(file, file.stat().st_size - 1)
        else:
            killed += start(folder, tuple(kill), after)
    start(folder, None)
    result = json.loads((folder / "result.json").read_text())
    return result | {"killed": killed, "said": (folder / "said.txt").read_text()}


def main(folder: Path) -> None:
    for name in ("datasets", "pandas", "peft.peft_model", "transformers.models.bloom.modeling_bloom",
                 "transformers.trainer", "trl.trainer.sft_trainer", "lessonlib.training"):  # fmt: skip
        import_module(name)
    gc.freeze()  # otherwise each child's garbage collector copies all that was imported
    began = time.monotonic()
    ended = {"unbroken": play(folder / "unbroken", [])}
    whole = time.monotonic() - began
    ended["started again"] = play(folder / "unbroken", [])
    pick = random.Random(20261121)
    planned: dict[str, list[tuple]] = {}
    for name, kills in SCENARIOS.items():
        planned[name] = []
        for kill in kills:
            after = None
            if kill == ("operation",):
                kill = ("operation", pick.randint(1, ended["unbroken"]["operations"]))
            if kill == ("clock",):
                after = whole * pick.uniform(0.3, 0.9)  # whichever moment that is, on this machine, today
            planned[name].append((*kill, after))
    # Two workers for two cores; a fork for each, because a forked child of a thread is asking for trouble.
    halves = [list(SCENARIOS)[::2], list(SCENARIOS)[1::2]]
    worker = os.fork()
    mine = halves[worker == 0]
    done = {name: play(folder / name.replace(" ", "-"), planned[name]) for name in mine}
    (folder / f"half-{int(worker == 0)}.json").write_text(json.dumps(done))
    if worker == 0:
        os._exit(0)
    os.waitpid(worker, 0)
    for number in range(2):
        ended |= json.loads((folder / f"half-{number}.json").read_text())
    (folder / "ended.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
