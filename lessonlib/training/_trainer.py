"""Training: a configuration that suits the device, a trainer that is checked before it starts, and `fit`,
which can be stopped at any moment and goes on where it was.

It takes rows that are already encoded (`lessonlib.formatting.encode`) and hands back trl's own objects. What
happens in one optimisation step is transformers' and trl's business; what is refused beforehand is in
`_preflight`, how checkpoints are told apart in `_checkpoints`.
"""

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._detect import Runtime, headless
from lessonlib.runtime._language import tr
from lessonlib.training import _checkpoints as checkpoints
from lessonlib.training import _preflight as preflight

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from transformers.trainer_utils import TrainOutput
    from trl import SFTConfig, SFTTrainer


_SEED = 42


def sft_config(runtime: Runtime, output_dir: str | Path, **overrides: Any) -> "SFTConfig":
    """A configuration of trl's SFTTrainer that is right for the device.

    On the CPU it computes in fp32; on a GPU below capability 8 (a T4) in fp16 mixed precision, and nowhere in
    bf16; above in bf16. trl by itself takes bf16 and gradient checkpointing everywhere. With the backend
    unsloth the loss is Unsloth's: loss_type "nll", which Unsloth replaces by its own computation of the same
    number (trl's "chunked_nll" would go past it).

    Args:
        runtime: what `lessonlib.runtime.detect` found.
        output_dir: the run's folder; a relative one lies in `runtime.work`, which survives a disconnect.
        **overrides: any argument of `trl.SFTConfig`, such as learning_rate=2e-4, max_steps=90, save_steps=20.

    Returns:
        An `SFTConfig`: seed 42 for weights and data order, a checkpoint every 50 steps of which the last two
        are kept, a log every 10 steps, nothing reported to the outside, no packing, no cutting of rows,
        gradient checkpointing (the non-reentrant kind) on GPUs only.

    Raises:
        LessonError: for an outdated name (it says the new one), an unknown name, bf16 on a GPU that lacks it,
            fp16 on the CPU, and packing on the CPU once Unsloth is there.
    """
    from trl import SFTConfig

    preflight.check_overrides(overrides, runtime)
    on_gpu = runtime.device == "cuda"
    settings: dict[str, Any] = {
        "use_cpu": not on_gpu,
        "fp16": runtime.dtype == "float16",
        "bf16": runtime.dtype == "bfloat16",
        "dataloader_pin_memory": on_gpu,
        "gradient_checkpointing": on_gpu,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": _SEED,
        "data_seed": overrides.get("seed", _SEED),
        "save_strategy": "steps",
        "save_steps": 50,
        "save_total_limit": 2,
        "logging_steps": 10,
        "report_to": "none",
        "disable_tqdm": headless(),
        "packing": False,
        "max_length": None,
    }
    if runtime.backend == "unsloth":
        settings["loss_type"] = "nll"
    config = SFTConfig(output_dir=str(runtime.work / output_dir), **(settings | overrides))
    preflight.check_packing(overrides, config)
    return config


def trainer(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    train_dataset: "Dataset",
    *,
    config: "SFTConfig",
    eval_dataset: "Dataset | None" = None,
    callbacks: Sequence["TrainerCallback"] = (),
) -> "SFTTrainer":
    """trl's SFTTrainer over encoded rows, checked for what makes a run worthless before it starts.

    trl takes rows with `input_ids` and `labels` as they are; its collator pads each batch on the right to its
    longest row, with -100 in the labels. The losses are those of a plain `transformers.Trainer`.
    Trainable parameters become fp32, whatever the frozen ones are: fp16 training needs that. (trl rounds
    those of a 4-bit model to bf16, whose gradients a T4 cannot unscale: trl issue 4901; here they keep their
    values.)

    Args:
        model: the model to train; for LoRA a PeftModel.
        tokenizer: the model's tokenizer: for the padding token, and to be saved with each checkpoint.
        train_dataset: columns input_ids and labels, lists of the same length (-100 where there is no loss).
        config: from `sft_config`, or any SFTConfig.
        eval_dataset: held-out rows in the same form; used where the config's eval_strategy asks for it.
        callbacks: further transformers callbacks.

    Returns:
        An `SFTTrainer`, not yet started; `fit` starts it. Its args are the config, but for save_total_limit:
        old checkpoints are deleted by a callback, and only once the newer one is known to be whole.

    Raises:
        LessonError: nothing is trainable; a column is missing; a row (named) has no loss, does not train the
            end of the answer, or is longer than config.max_length or the max_seq_length of Unsloth's model;
            packing with a model that would read across packed rows; settings from which an interrupted run
            could not go on.
    """
    from transformers import PrinterCallback
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
    from trl import SFTTrainer

    preflight.check_model(model, config)
    preflight.check_saving(config)
    for name, dataset in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
        if dataset is not None:
            preflight.check_rows(name, dataset, model, tokenizer, config.max_length)
    args = copy.copy(config)
    args.save_total_limit = None
    trainable = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    with _quietly():
        made = SFTTrainer(
            model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset,
            processing_class=tokenizer, callbacks=list(callbacks),
        )  # fmt: skip
    for parameter, values in trainable:
        parameter.data = values.to(parameter.device).float()
    # One prints a raw dictionary at every log, the other writes one beside its bar.
    made.remove_callback(PrinterCallback if config.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)
    if not config.disable_tqdm:
        made.add_callback(_progress_bar())
    made.add_callback(checkpoints.marking_callback(keep=config.save_total_limit))
    return made


def fit(trainer: "SFTTrainer") -> "TrainOutput":
    """Train to the end, from the newest whole checkpoint if there is one.

    A run that was killed goes on where that checkpoint stands, and ends with the same weights as one that was
    not (on the same machine). A run that was finished is not trained again: its weights and history come
    back. Half-written checkpoints are passed over with a word and deleted. Randomness starts from
    config.seed, so what is drawn between `trainer` and `fit` changes nothing.

    Args:
        trainer: from `lessonlib.training.trainer`. Its model is trained in place, and left in eval mode, with
            the forward function of its class, which trl had replaced for the time of training.

    Returns:
        A `TrainOutput`: the last step, the mean training loss over all steps (transformers' own is wrong
        after a resume) and metrics; times are those of this call.

    Raises:
        LessonError: where the output folder holds a run with other data, settings, LoRA or base model.
    """
    from transformers import set_seed
    from transformers.trainer_callback import TrainerState
    from transformers.trainer_utils import TrainOutput

    folder = Path(str(trainer.args.output_dir))
    checkpoints.claim(folder, checkpoints.fingerprint(trainer))
    newest = checkpoints.newest_checkpoint(folder)
    checkpoints.remove_incomplete(folder)
    set_seed(trainer.args.seed)
    if newest is None:
        output = trainer.train()
    else:
        state = TrainerState.load_from_json(str(newest / "trainer_state.json"))
        step, total = state.global_step, state.max_steps
        if step < total:
            print(tr("Going on from step {step} of {total}.", step=step, total=total))
            counts = [record["num_tokens"] for record in state.log_history if "num_tokens" in record]
            trainer._total_train_tokens = counts[-1] if counts else 0  # trl would count from 0
            metrics = trainer.train(resume_from_checkpoint=str(newest)).metrics
            # All samples of the run over the time of this call would be no speed.
            metrics = {name: value for name, value in metrics.items() if "_per_second" not in name}
        else:
            print(tr("Finished earlier ({step} steps).", step=step))
            trainer._load_from_checkpoint(str(newest))
            trainer.state, metrics = state, {}
            if trainer.args.load_best_model_at_end and state.best_model_checkpoint:
                trainer._load_best_model()
        mean = _mean_loss(trainer.state.log_history)
        output = TrainOutput(trainer.state.global_step, mean, metrics | {"train_loss": mean})
    _hand_back(trainer)
    return output


def history(trainer: "SFTTrainer") -> "pd.DataFrame":
    """What was logged, one row a step, from the first step on even if the run was interrupted.

    Args:
        trainer: after `fit`; a plain transformers Trainer does as well.

    Returns:
        A DataFrame with the columns step, epoch, loss (mean over the steps since the row before, in nats per
        token with loss), eval_loss and learning_rate; NaN where a step has no such value.
    """
    return logged(trainer.state.log_history)


def logged(records: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """The table of `history` from a Trainer's log, `state.log_history`, finished or not."""
    import pandas as pd

    columns = ["step", "epoch", "loss", "eval_loss", "learning_rate"]
    found: dict[int, dict[str, Any]] = {}
    for record in records:
        if "loss" in record or "eval_loss" in record:
            found.setdefault(int(record["step"]), {}).update(record)
    frame = pd.DataFrame([found[step] for step in sorted(found)]).reindex(columns=columns)
    return frame.astype({"step": "int64"} | dict.fromkeys(columns[1:], "float64"))


@contextmanager
def _quietly() -> Iterator[None]:
    """No bars over packing when nobody watches, and no warning that packing takes FlashAttention.

    transformers' own eager and sdpa masks keep packed rows apart as well (tests/test_packing.py), where the
    model takes position ids; `check_model` sees to that.
    """
    import datasets

    def wanted(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return not ("packing, but the attention" in said or "Padding-free training is enabled, but" in said)

    log, bars = logging.getLogger("trl.trainer.sft_trainer"), not datasets.are_progress_bars_disabled()
    log.addFilter(wanted)
    if headless():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        log.removeFilter(wanted)
        if bars:
            datasets.enable_progress_bars()


def _progress_bar() -> "TrainerCallback":
    from transformers import ProgressCallback

    class ProgressBar(ProgressCallback):
        """transformers' bar over the steps, with the last loss in it instead of a dictionary beside it."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            bar: Any = self.training_bar
            if "loss" in logs:
                bar.set_postfix_str(f"loss {logs['loss']:.2f}")

    return ProgressBar()


def _mean_loss(records: list[dict[str, Any]]) -> float:
    """Each logged loss is the mean over the steps since the one before; weigh it by their number."""
    before, total = 0, 0.0
    for record in records:
        if "loss" in record:
            total += record["loss"] * (record["step"] - before)
            before = record["step"]
    return total / max(before, 1)


def _hand_back(trainer: "SFTTrainer") -> None:
    """Leave the model as transformers made it.

    trl replaced the forward function by one that returns no logits where labels are given, and that keeps
    pointing at this very model when it is copied; transformers switched the key-value cache off.
    """
    model: Any = trainer.model
    args: Any = trainer.args
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "chunked_ce" in inner.forward.__qualname__:
        del inner.forward
        args.loss_type = "nll"  # for trainer.evaluate(): the same loss, computed the plain way
    model.config.use_cache = True
    model.eval()
