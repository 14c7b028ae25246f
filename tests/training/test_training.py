import copy
import dataclasses
import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime._detect import Gpu, detect
from lessonlib.runtime._language import LessonError
from lessonlib.training import _checkpoints as checkpoints
from lessonlib.training import _preflight as preflight
from lessonlib.training import _trainer as training

T4 = Gpu(name="Tesla T4", capability=(7, 5), memory_gib=14.7)
L4 = Gpu(name="NVIDIA L4", capability=(8, 9), memory_gib=22.0)


@pytest.fixture(autouse=True)
def headless(monkeypatch):
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")
    monkeypatch.delenv("LESSONLIB_PROFILE", raising=False)


@pytest.fixture
def cpu(tmp_path):
    return detect(family="bloom", profile="rehearsal", gpu=None, work=tmp_path / "work")


@pytest.fixture
def t4(tmp_path):
    return detect(family="bloom", gpu=T4, work=tmp_path / "work")


@pytest.fixture(scope="module")
def dataset():
    """16 rows of 5 to 12 tokens, ending with EOS (2); the first three tokens have no loss."""
    from datasets import Dataset

    rows = []
    for number in range(16):
        ids = [4 + (7 * number + 3 * place) % 200 for place in range(4 + number % 8)] + [2]
        rows.append({"input_ids": ids, "labels": [-100, -100, -100, *ids[3:]]})
    return Dataset.from_list(rows)


def adapted(model, dropout=0.0, r=4):
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(1)
    lora = LoraConfig(r=r, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear")
    return get_peft_model(model, lora)


def trained(model):
    return {name: it.detach().clone() for name, it in model.named_parameters() if it.requires_grad}


def equal(first, second):
    return first.keys() == second.keys() and all(bool((first[name] == second[name]).all()) for name in first)


# ---- the configuration ----


def test_on_the_cpu_it_computes_in_fp32(cpu):
    config = training.sft_config(cpu, "run", learning_rate=1e-3)
    assert config.use_cpu
    assert not (config.fp16 or config.bf16 or config.gradient_checkpointing or config.dataloader_pin_memory)
    assert config.output_dir == str(cpu.work / "run")
    assert config.learning_rate == 1e-3
    assert config.report_to == []
    assert (config.max_length, config.packing) == (None, False)
    assert (config.save_strategy, config.save_steps, config.save_total_limit) == ("steps", 50, 2)


def test_a_t4_gets_fp16_and_no_bf16_anywhere(t4):
    config = training.sft_config(t4, "run")
    assert (config.use_cpu, config.fp16, config.bf16) == (False, True, False)
    assert config.gradient_checkpointing
    assert config.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert "bf16" not in [name for name, value in config.to_dict().items() if value is True]
    assert "bfloat16" not in json.dumps(config.to_dict(), default=str)


def test_a_newer_gpu_gets_bf16(tmp_path, monkeypatch):
    # TrainingArguments asks the machine that the test runs on.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    config = training.sft_config(detect(family="bloom", gpu=L4, work=tmp_path), "run")
    assert (config.fp16, config.bf16) == (False, True)


def test_the_seed_is_also_the_seed_of_the_data(cpu):
    assert training.sft_config(cpu, "run", seed=7).data_seed == 7
    assert training.sft_config(cpu, "run", seed=7, data_seed=8).data_seed == 8


def test_no_progress_bar_when_nobody_watches(cpu, monkeypatch):
    assert training.sft_config(cpu, "run").disable_tqdm
    monkeypatch.delenv("LESSONLIB_HEADLESS")
    assert not training.sft_config(cpu, "run").disable_tqdm


@pytest.mark.parametrize("name", preflight._OUTDATED)
def test_an_outdated_name_is_answered_with_the_new_one(cpu, name):
    from trl import SFTConfig

    known = inspect.signature(SFTConfig).parameters
    assert name not in known  # else it is not outdated
    with pytest.raises(LessonError, match=f"^{name} is gone in this version. Use ") as caught:
        training.sft_config(cpu, "run", **{name: 1})
    new = str(caught.value).split(" Use ")[1].split(":")[0].split("=")[0].rstrip(".")
    assert new in known or not new.isidentifier(), new
    language.use("vi")
    with pytest.raises(LessonError, match=f"^{name} không còn trong phiên bản này. Hãy dùng "):
        training.sft_config(cpu, "run", **{name: 1})


def test_the_articles_optimiser_is_answered_with_the_new_one(cpu):
    with pytest.raises(LessonError, match="optim='adamw_hf' is gone .* Use optim='adamw_torch'."):
        training.sft_config(cpu, "run", optim="adamw_hf")
    assert training.sft_config(cpu, "run", optim="adamw_torch").optim == "adamw_torch"


def test_an_unknown_name_is_answered_with_near_ones(cpu):
    with pytest.raises(LessonError, match="no argument 'learnig_rate'. Do you mean: learning_rate"):
        training.sft_config(cpu, "run", learnig_rate=1)
    with pytest.raises(LessonError, match="no argument 'xyzzy'.$"):
        training.sft_config(cpu, "run", xyzzy=1)


def test_a_number_format_that_the_device_lacks_is_refused(cpu, t4):
    with pytest.raises(LessonError, match="bf16=True: this GPU has no bfloat16"):
        training.sft_config(t4, "run", bf16=True)
    with pytest.raises(LessonError, match="fp16=True: on the CPU"):
        training.sft_config(cpu, "run", fp16=True)


def test_the_loss_is_unsloths_where_the_backend_is(cpu):
    """trl's own loss_type would go past Unsloth's computation."""
    assert training.sft_config(cpu, "run").loss_type == "chunked_nll"
    through_unsloth = dataclasses.replace(cpu, backend="unsloth")
    assert training.sft_config(through_unsloth, "run").loss_type == "nll"
    assert training.sft_config(through_unsloth, "run", loss_type="dft").loss_type == "dft"


# ---- what is refused before the start ----


def test_packing_that_was_switched_off_is_noticed(cpu):
    off = SimpleNamespace(packing=False)
    with pytest.raises(LessonError, match="on a CPU Unsloth switches packing off"):
        preflight.check_packing({"packing": True}, off)
    preflight.check_packing({}, off)
    preflight.check_packing({"packing": True}, training.sft_config(cpu, "run", packing=True, max_length=64))


@pytest.mark.parametrize("which", ["train_dataset", "eval_dataset"])
def test_a_row_longer_than_unsloths_model_takes_is_named(cpu, tiny_bloom, tokenizer, dataset, which):
    from datasets import Dataset

    long = Dataset.from_list([*dataset, {"input_ids": [5] * 12 + [2], "labels": [5] * 12 + [2]}])
    sets = {"train_dataset": dataset, "eval_dataset": dataset} | {which: long}
    config = training.sft_config(cpu, "run")
    tiny_bloom.max_seq_length = 12
    with pytest.raises(LessonError, match=f"^{which}, row 16: 13 tokens, but the model was loaded for 12"):
        training.trainer(tiny_bloom, tokenizer, config=config, **sets)
    tiny_bloom.max_seq_length = 13
    training.trainer(tiny_bloom, tokenizer, config=config, **sets)


def test_a_model_with_nothing_to_train_is_refused(cpu, tiny_bloom, tokenizer, dataset):
    tiny_bloom.requires_grad_(False)
    with pytest.raises(LessonError, match="no trainable parameter. For LoRA: model = peft.get_peft_model"):
        training.trainer(tiny_bloom, tokenizer, dataset, config=training.sft_config(cpu, "run"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"input_ids": [5, 6, 2], "labels": [-100, -100, -100]}, "row 16: every label is -100"),
        ({"input_ids": [5, 6, 2], "labels": [5, -100, -100]}, "row 16: every label is -100"),
        ({"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, r"row 16: no label is an end token \(EOS"),
        ({"input_ids": [5] * 40 + [2], "labels": [5] * 40 + [2]}, "row 16: 41 tokens, more than max_length"),
    ],
)
@pytest.mark.parametrize("which", ["train_dataset", "eval_dataset"])
def test_a_bad_row_is_named(cpu, tiny_bloom, tokenizer, dataset, which, row, problem):
    from datasets import Dataset

    bad = Dataset.from_list([*dataset, row])
    sets = {"train_dataset": dataset, "eval_dataset": dataset} | {which: bad}
    config = training.sft_config(cpu, "run", max_length=32)
    with pytest.raises(LessonError, match=f"^{which}, {problem}"):
        training.trainer(tiny_bloom, tokenizer, config=config, **sets)
    language.use("vi")
    with pytest.raises(LessonError, match=f"^{which}, dòng 16: "):
        training.trainer(tiny_bloom, tokenizer, config=config, **sets)


def test_an_end_token_of_the_model_will_do(tiny_bloom, tokenizer):
    from datasets import Dataset

    chat = Dataset.from_list([{"input_ids": [5, 6, 9], "labels": [-100, 6, 9]}])
    tiny_bloom.generation_config.eos_token_id = [2, 9]  # as Llama 3 and Gemma have it
    preflight.check_rows("train_dataset", chat, tiny_bloom, tokenizer, None)
    tiny_bloom.generation_config.eos_token_id = 2
    with pytest.raises(LessonError, match="no label is an end token"):
        preflight.check_rows("train_dataset", chat, tiny_bloom, tokenizer, None)


def test_rows_that_are_not_encoded_are_refused(cpu, tiny_bloom, tokenizer, dataset):
    config = training.sft_config(cpu, "run")
    with pytest.raises(LessonError, match="needs the columns input_ids and labels .* Use formatting.encode"):
        training.trainer(tiny_bloom, tokenizer, dataset.rename_column("labels", "text"), config=config)
    with pytest.raises(LessonError, match="it has 0 rows"):
        training.trainer(tiny_bloom, tokenizer, dataset.select([]), config=config)


def test_packing_is_for_models_that_keep_rows_apart(cpu, tiny_bloom, tiny_llama):
    config = training.sft_config(cpu, "run", packing=True, max_length=64)
    with pytest.raises(LessonError, match="packing=True: BloomForCausalLM takes no position_ids"):
        preflight.check_model(adapted(tiny_bloom), config)
    llama = adapted(tiny_llama)
    preflight.check_model(llama, config)
    config = training.sft_config(cpu, "run", packing=True, max_length=64, packing_strategy="wrapped")
    with pytest.raises(LessonError, match="drops the borders between them.*packing_strategy='bfd'"):
        preflight.check_model(llama, config)


def test_settings_from_which_a_run_could_not_go_on_are_refused(cpu, tiny_bloom, tokenizer, dataset):
    for said in ({"eval_strategy": "epoch"}, {"save_strategy": "best"}):
        with pytest.raises(LessonError, match="Set both to 'steps' or both to 'epoch'"):
            preflight.check_saving(training.sft_config(cpu, "run", **said))
    with pytest.raises(LessonError, match="save_only_model=True: the checkpoints lack the optimiser's state"):
        preflight.check_saving(training.sft_config(cpu, "run", save_only_model=True))
    for fine in ({"eval_strategy": "steps"}, {"save_strategy": "no", "eval_strategy": "epoch"}):
        preflight.check_saving(training.sft_config(cpu, "run", **fine))


# ---- the trainer ----


def test_trainable_parameters_are_fp32_and_frozen_ones_stay_fp16(cpu, t4, tiny_bloom, tokenizer, dataset):
    import torch

    model = adapted(tiny_bloom.half())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.half()
    made = training.trainer(model, tokenizer, dataset, config=training.sft_config(t4, "run"))
    dtypes = {(it.requires_grad, it.dtype) for it in made.model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.float16)}


def test_trainable_parameters_are_fp32_after_trls_own_cast(cpu, tiny_llama, tokenizer, dataset):
    """trl turns the adapters of a 4-bit model into bf16."""
    import torch
    from trl import SFTTrainer

    model = adapted(tiny_llama)
    model.is_loaded_in_4bit = True
    config = training.sft_config(cpu, "run")
    SFTTrainer(model, config, train_dataset=dataset, processing_class=tokenizer)
    assert {it.dtype for it in trained(model).values()} == {torch.bfloat16}  # else this proves nothing
    training.trainer(model, tokenizer, dataset, config=config)
    assert {it.dtype for it in trained(model).values()} == {torch.float32}


@pytest.mark.parametrize("family", ["tiny_bloom", "tiny_llama"])
def test_it_gives_the_losses_of_a_plain_trainer(cpu, tokenizer, dataset, family, request, tmp_path):
    """Step by step, with dropout and accumulation; the lesson shows the same."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model = request.getfixturevalue(family)
    settings = {"max_steps": 8, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3,
                "learning_rate": 1e-2, "warmup_steps": 2, "seed": 3, "logging_steps": 1}  # fmt: skip
    plain = Trainer(
        adapted(copy.deepcopy(model), dropout=0.05),
        TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", **settings),
        train_dataset=dataset,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
    plain.train()
    ours = training.trainer(
        adapted(model, dropout=0.05), tokenizer, dataset, config=training.sft_config(cpu, "run", **settings)
    )
    training.fit(ours)
    by_hand, by_helper = training.history(plain)["loss"], training.history(ours)["loss"]
    assert len(by_helper) == 8
    assert by_helper.tolist() == pytest.approx(by_hand.tolist(), abs=1e-5)
    assert max(by_hand) - min(by_hand) > 0.01  # not all the same for want of learning
    for name, weight in trained(plain.model).items():
        assert (weight - trained(ours.model)[name]).abs().max() < 1e-5, name


def test_the_model_comes_back_as_transformers_made_it(cpu, tiny_bloom, tokenizer, dataset):
    import torch

    model = adapted(tiny_bloom)
    made = training.trainer(model, tokenizer, dataset, config=training.sft_config(cpu, "run", max_steps=2))
    before = made.evaluate(dataset)["eval_loss"]
    training.fit(made)
    assert not model.training
    assert model.config.use_cache
    batch = {"input_ids": torch.tensor([[5, 6, 2]]), "labels": torch.tensor([[5, 6, 2]])}
    assert model(**batch).logits.shape == (1, 3, len(tokenizer))
    assert made.evaluate(dataset)["eval_loss"] != before
    # While trl's function is in its place, a copy computes with the weights of the original.
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert not torch.equal(other(batch["input_ids"]).logits, model(batch["input_ids"]).logits)


def test_headless_training_says_nothing(cpu, tiny_bloom, tokenizer, dataset, capfd):
    config = training.sft_config(cpu, "run", max_steps=2, logging_steps=1)
    training.fit(training.trainer(adapted(tiny_bloom), tokenizer, dataset, config=config))
    said = capfd.readouterr()
    assert "loss" not in said.out + said.err
    assert "%" not in said.err


def test_otherwise_one_bar_shows_steps_and_loss(cpu, tiny_bloom, tokenizer, dataset, capfd, monkeypatch):
    monkeypatch.delenv("LESSONLIB_HEADLESS")
    config = training.sft_config(cpu, "run", max_steps=2, logging_steps=1)
    training.fit(training.trainer(adapted(tiny_bloom), tokenizer, dataset, config=config))
    said = capfd.readouterr()
    assert "{" not in said.out + said.err  # no dictionary a log
    last = said.err.strip().split("\r")[-1]
    assert "2/2" in last
    assert "loss 5." in last


# ---- history, finished runs, interrupted runs ----


def test_the_history_is_a_table(cpu, tiny_bloom, tokenizer, dataset):
    config = training.sft_config(
        cpu, "run", max_steps=5, logging_steps=2, eval_strategy="steps", eval_steps=5, learning_rate=1e-2
    )
    made = training.trainer(adapted(tiny_bloom), tokenizer, dataset, eval_dataset=dataset, config=config)
    output = training.fit(made)
    frame = training.history(made)
    assert frame.columns.tolist() == ["step", "epoch", "loss", "eval_loss", "learning_rate"]
    assert frame["step"].tolist() == [2, 4, 5]  # the last step is logged because it is saved
    assert frame["eval_loss"].notna().tolist() == [False, False, True]
    first, second, last = frame["loss"]
    assert output.training_loss == pytest.approx((2 * first + 2 * second + last) / 5)


def test_a_history_of_nothing_is_empty():
    frame = training.history(SimpleNamespace(state=SimpleNamespace(log_history=[])))
    assert frame.columns.tolist() == ["step", "epoch", "loss", "eval_loss", "learning_rate"]
    assert len(frame) == 0


def start(runtime, model, tokenizer, dataset, stop_at=None, **settings):
    """A trainer over 6 steps with dropout; stop_at raises there, as an interrupted cell does."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == stop_at:
                raise KeyboardInterrupt

    said = {"max_steps": 6, "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-2} | settings
    config = training.sft_config(runtime, "run", **said)
    return training.trainer(model, tokenizer, dataset, config=config, callbacks=[Stop()])


def test_a_finished_run_is_not_trained_again(cpu, tiny_bloom, tokenizer, dataset, capsys):
    first = start(cpu, adapted(copy.deepcopy(tiny_bloom), 0.1), tokenizer, dataset)
    output = training.fit(first)
    again = start(cpu, adapted(tiny_bloom, 0.1), tokenizer, dataset, stop_at=1)  # a step would raise
    assert not equal(trained(first.model), trained(again.model))
    assert training.fit(again).training_loss == pytest.approx(output.training_loss)
    assert equal(trained(first.model), trained(again.model))
    assert training.history(first).equals(training.history(again))
    assert capsys.readouterr().out == "Finished earlier (6 steps).\n"


def test_a_finished_full_fine_tune_comes_back_too(cpu, tiny_bloom, tokenizer, dataset):
    first = start(cpu, copy.deepcopy(tiny_bloom), tokenizer, dataset)
    training.fit(first)
    again = start(cpu, tiny_bloom, tokenizer, dataset, stop_at=1)
    training.fit(again)
    assert equal(trained(first.model), trained(again.model))


def test_the_best_checkpoint_of_a_finished_run_comes_back(cpu, tiny_bloom, tokenizer, dataset):
    """Best is here the highest loss, so that it is an early checkpoint; that one is kept and loaded."""

    def made(model):
        config = training.sft_config(
            cpu, "run", max_steps=6, save_steps=2, learning_rate=5e-2, eval_strategy="steps", eval_steps=2,
            load_best_model_at_end=True, greater_is_better=True,
        )  # fmt: skip
        return training.trainer(model, tokenizer, dataset, config=config, eval_dataset=dataset)

    first = made(adapted(copy.deepcopy(tiny_bloom)))
    training.fit(first)
    losses = training.history(first).dropna(subset=["eval_loss"])["eval_loss"].tolist()
    assert losses[0] > max(losses[1:]) + 0.01
    kept = sorted(path.name for path in (cpu.work / "run").glob("checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]  # the best, and the last two
    again = made(adapted(tiny_bloom))
    training.fit(again)
    assert equal(trained(first.model), trained(again.model))
    assert again.evaluate()["eval_loss"] == pytest.approx(losses[0], abs=1e-5)


def test_an_interrupted_run_goes_on_with_another_rhythm(cpu, tiny_bloom, tokenizer, dataset):
    whole = start(cpu, adapted(copy.deepcopy(tiny_bloom), 0.1), tokenizer, dataset)
    training.fit(whole)
    cpu.work.joinpath("run").rename(cpu.work / "whole")
    with pytest.raises(KeyboardInterrupt):
        training.fit(start(cpu, adapted(copy.deepcopy(tiny_bloom), 0.1), tokenizer, dataset, stop_at=3))
    (cpu.work / "run" / "checkpoint-5").mkdir()  # half-written; the new rhythm does not come by there again
    rest = start(
        cpu, adapted(tiny_bloom, 0.1), tokenizer, dataset, logging_steps=2, save_steps=4, save_total_limit=5
    )
    output = training.fit(rest)
    assert equal(trained(whole.model), trained(rest.model))
    assert training.history(rest)["step"].tolist() == [1, 2, 4, 6]
    assert sorted(path.name[11:] for path in (cpu.work / "run").glob("checkpoint-*")) == ["2", "4", "6"]
    assert output.training_loss == pytest.approx(training.history(whole)["loss"].mean(), abs=1e-5)
    assert not [name for name in output.metrics if name.endswith("per_second")]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 2e-3}, r"changed since: learning_rate 0.01 → 0.002\. Choose"),
        ({"max_steps": 7}, r"changed since: max_steps 6 → 7\. "),
        ({"data": 1}, r"changed since: train_dataset\. "),
        ({"r": 2}, r"changed since: lora r 4 → 2\. "),
        ({"base": 1}, r"changed since: base model\. "),
    ],
)
def test_a_folder_of_another_run_is_refused(cpu, tiny_bloom, tokenizer, dataset, change, named):
    import torch

    model = adapted(copy.deepcopy(tiny_bloom))
    with pytest.raises(KeyboardInterrupt):
        training.fit(start(cpu, model, tokenizer, dataset, stop_at=3))
    settings = dict(change)
    if settings.pop("base", None):
        with torch.no_grad():
            tiny_bloom.transformer.h[1].mlp.dense_h_to_4h.weight[0, 0] += 1e-3
    rows = dataset.select(range(15)) if settings.pop("data", None) else dataset
    other = start(cpu, adapted(tiny_bloom, r=settings.pop("r", 4)), tokenizer, rows, **settings)
    with pytest.raises(LessonError, match=named):
        training.fit(other)
    language.use("vi")
    with pytest.raises(LessonError, match="đang giữ một lần huấn luyện khác"):
        training.fit(other)


def test_which_layers_lora_adapts_does_not_make_another_base_model(tiny_bloom):
    from peft import LoraConfig, get_peft_model

    digests = set()
    for targets in (["query_key_value"], ["dense", "dense_h_to_4h"]):
        model = get_peft_model(copy.deepcopy(tiny_bloom), LoraConfig(target_modules=targets))
        digests.add(checkpoints._digest_of_model(model, adapted=True))
    assert len(digests) == 1


def test_before_the_first_checkpoint_anything_may_change(tmp_path):
    checkpoints.claim(tmp_path / "run", {"learning_rate": 1})
    checkpoints.claim(tmp_path / "run", {"learning_rate": 2})
    assert json.loads((tmp_path / "run" / checkpoints._RUN).read_text()) == {"learning_rate": 2}


def test_a_later_version_may_look_at_more(tmp_path):
    checkpoints.claim(tmp_path, {"learning_rate": 1})
    whole(tmp_path, 2)
    checkpoints.claim(tmp_path, {"learning_rate": 1, "new": 3})


@pytest.mark.parametrize("content", [None, "", "{"])
def test_checkpoints_of_nobody_knows_whom_are_refused(tmp_path, content):
    whole(tmp_path, 2)
    if content is not None:
        (tmp_path / checkpoints._RUN).write_text(content)
    with pytest.raises(LessonError, match="holds checkpoints but no readable lesson_run.json"):
        checkpoints.claim(tmp_path, {"learning_rate": 1})
    assert (tmp_path / "checkpoint-2").is_dir()


# ---- which checkpoints are whole ----


def whole(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(range(200)))
    (path / "trainer_state.json").write_text("{}")
    (path / "adapter").mkdir()
    (path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    checkpoints._mark_complete(path)
    return path


def test_no_folder_and_an_empty_one_have_no_checkpoint(tmp_path):
    assert checkpoints.newest_checkpoint(tmp_path / "nowhere") is None
    assert checkpoints.newest_checkpoint(tmp_path) is None


def test_the_newest_is_the_one_of_the_highest_step(tmp_path, capsys):
    for step in (10, 9, 100):
        whole(tmp_path, step)
    os.utime(tmp_path / "checkpoint-9", (2e9, 2e9))  # file times say nothing
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "checkpoint-200").write_text("a file")
    assert checkpoints.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert capsys.readouterr().out == ""


def shorten(path):
    os.truncate(path / "model.safetensors", 100)


def flip(path):
    (path / "model.safetensors").write_bytes(bytes(200))


DAMAGE = {
    "model.safetensors has 100 bytes and should have 200": shorten,
    "the contents of model.safetensors are damaged": flip,
    "trainer_state.json is missing": lambda path: (path / "trainer_state.json").unlink(),
    "adapter/adapter_model.safetensors is missing": lambda path: (
        path / "adapter" / "adapter_model.safetensors"
    ).unlink(),
    "no lesson_complete.json, which is written last": lambda path: (path / checkpoints._MARKER).unlink(),
    "lesson_complete.json is unreadable": lambda path: (path / checkpoints._MARKER).write_text("{"),
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_half_written_checkpoint_is_passed_over_with_a_word(tmp_path, capsys, reason):
    good, bad = whole(tmp_path, 2), whole(tmp_path, 4)
    DAMAGE[reason](bad)
    assert checkpoints.newest_checkpoint(tmp_path) == good
    assert capsys.readouterr().out == f"Passing over checkpoint-4: {reason}.\n"
    language.use("vi")
    checkpoints.newest_checkpoint(tmp_path)
    assert capsys.readouterr().out.startswith("Bỏ qua checkpoint-4: lưu dở dang (")
    checkpoints.remove_incomplete(tmp_path)
    assert good.is_dir() and not bad.exists()


def test_an_empty_checkpoint_folder_is_passed_over(tmp_path, capsys):
    (tmp_path / "checkpoint-3").mkdir()
    assert checkpoints.newest_checkpoint(tmp_path) is None
    assert "Passing over checkpoint-3" in capsys.readouterr().out


def test_of_a_large_file_only_the_size_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_HASHED_UP_TO", 100)
    flip(whole(tmp_path, 2))
    assert checkpoints.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    shorten(tmp_path / "checkpoint-2")
    assert checkpoints.newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(2, None, [4, 6]), (2, "checkpoint-2", [2, 4, 6]), (1, None, [6]), (None, None, [2, 4, 6])],
)
def test_older_checkpoints_go_once_the_new_one_is_marked(tmp_path, keep, best, left):
    for step in (2, 4, 6):
        whole(tmp_path, step)
    (tmp_path / "checkpoint-6" / checkpoints._MARKER).unlink()
    state = SimpleNamespace(
        global_step=6, is_world_process_zero=True, best_model_checkpoint=best and str(tmp_path / best)
    )
    callback = checkpoints.marking_callback(keep=keep)
    callback.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    assert [path.name for path in checkpoints._by_step(tmp_path)] == [f"checkpoint-{step}" for step in left]
    assert checkpoints.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-6"
