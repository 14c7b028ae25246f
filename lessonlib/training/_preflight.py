"""What makes a training run worthless, found before it starts: wrong names, settings and rows.

Each check raises a LessonError with the cure, or returns nothing. It looks at a configuration, a model and
encoded rows; it changes none of them.
"""

import difflib
import inspect
from typing import TYPE_CHECKING, Any

from lessonlib.formatting._text_column import IGNORED
from lessonlib.runtime._detect import Runtime
from lessonlib.runtime._language import LessonError, Translated
from lessonlib.training._checkpoints import rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase
    from trl import SFTConfig

# Names that tutorials still use, and what to write instead.
_OUTDATED: dict[str, str | Translated] = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": Translated("warmup_steps: a number below 1 is a share, such as warmup_steps=0.1"),
    "overwrite_output_dir": Translated("a new output_dir (in an old one, training.fit goes on by itself)"),
    "logging_dir": Translated("the environment variable TENSORBOARD_LOGGING_DIR"),
    "tokenizer": "training.trainer(model, tokenizer, ...)",
    "processing_class": "training.trainer(model, tokenizer, ...)",
    "peft_config": "peft.get_peft_model(model, lora_config)",
    "max_seq_length": "max_length",
    "no_cuda": "use_cpu",
    "group_by_length": "train_sampling_strategy='group_by_length'",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}


def check_overrides(overrides: dict[str, Any], runtime: Runtime) -> None:
    """Refuses an outdated or unknown argument of SFTConfig, bf16 on a GPU without it, fp16 on the CPU."""
    from trl import SFTConfig

    outdated = {name: _OUTDATED[name] for name in overrides if name in _OUTDATED}
    if overrides.get("optim") == "adamw_hf":
        outdated["optim='adamw_hf'"] = "optim='adamw_torch'"
    for name, instead in outdated.items():
        raise LessonError("{name} is gone in this version. Use {instead}.", name=name, instead=instead)
    known = list(inspect.signature(SFTConfig).parameters)
    for name in overrides:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, n=3))
            if near:
                raise LessonError(
                    "SFTConfig has no argument {name!r}. Do you mean: {near}?", name=name, near=near,
                )
            raise LessonError("SFTConfig has no argument {name!r}.", name=name)
    if overrides.get("bf16") and runtime.dtype == "float16":
        raise LessonError(
            "bf16=True: this GPU has no bfloat16 (it takes compute capability 8). Leave bf16 out; "
            "sft_config has chosen fp16.",
        )
    if overrides.get("fp16") and runtime.device == "cpu":
        raise LessonError(
            "fp16=True: on the CPU transformers computes in fp32 without a word. Leave fp16 out.",
        )


def check_packing(overrides: dict[str, Any], config: "SFTConfig") -> None:
    """Refuses a config without the packing that was asked for: on a CPU Unsloth switches it off."""
    if overrides.get("packing") and not config.packing:
        raise LessonError(
            "packing=True: on a CPU Unsloth switches packing off (once imported, for each trainer in this "
            "kernel). Leave packing out, or restart the kernel and use backend='transformers'.",
        )


def check_model(model: Any, config: "SFTConfig") -> None:
    """Refuses a model with nothing to train, and packing by which rows would read those before them."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise LessonError(
            "The model has no trainable parameter. For LoRA: model = peft.get_peft_model(model, "
            "lora_config), or PeftModel.from_pretrained(..., is_trainable=True).",
        )
    if config.packing and config.packing_strategy == "wrapped":
        raise LessonError(
            "packing_strategy='wrapped' cuts rows in two and drops the borders between them, so each reads "
            "those before it. Use packing_strategy='bfd'.",
        )
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    # Packed rows are told apart by position ids that begin again at 0. BLOOM has none: its ALiBi bias follows
    # from the attention mask.
    if config.packing and "position_ids" not in inspect.signature(inner.forward).parameters:
        raise LessonError(
            "packing=True: {name} takes no position_ids, so it cannot tell rows that are packed together "
            "apart; each would read those before it. Set packing=False.",
            name=type(inner).__name__,
        )


def check_saving(config: "SFTConfig") -> None:
    """Refuses settings with which an interrupted run would not go on to the same end.

    These are saving and evaluating at different rhythms (an evaluation draws from the random generator, so
    one that falls behind a checkpoint changes what follows), and checkpoints without the optimiser.
    """
    saves = str(getattr(config.save_strategy, "value", config.save_strategy))
    evaluates = str(getattr(config.eval_strategy, "value", config.eval_strategy))
    if saves == "best" or ("no" not in (saves, evaluates) and saves != evaluates):
        raise LessonError(
            "save_strategy={saves!r} with eval_strategy={evaluates!r}: a run that is interrupted would not "
            "end the same. Set both to 'steps' or both to 'epoch'.",
            saves=saves, evaluates=evaluates,
        )
    if config.save_only_model and saves != "no":
        raise LessonError(
            "save_only_model=True: the checkpoints lack the optimiser's state, so the run cannot go on. "
            "Leave save_only_model out.",
        )


def check_rows(
    name: str, dataset: "Dataset", model: Any, tokenizer: "PreTrainedTokenizerBase", max_length: int | None
) -> None:
    """Refuses a row (named, counted from 0) with nothing to learn, with no end to learn, or too long.

    Args:
        name: what to call the dataset in a message.
        dataset: columns input_ids and labels.
        model: its generation_config names the tokens that stop an answer; where Unsloth loaded it, its
            max_seq_length was fixed then.
        tokenizer: its EOS is such a token too.
        max_length: the config's; trl cuts longer rows.
    """
    missing = {"input_ids", "labels"} - set(dataset.column_names)
    if missing or len(dataset) == 0:
        there = ", ".join(dataset.column_names)
        raise LessonError(
            "{name} needs the columns input_ids and labels and at least one row; it has {count} rows and "
            "the columns {there}. Use formatting.encode first.",
            name=name, count=len(dataset), there=there,
        )
    stops = getattr(getattr(model, "generation_config", None), "eos_token_id", None) or []
    ends = {tokenizer.eos_token_id, *([stops] if isinstance(stops, int) else stops)} - {None}
    longest = getattr(model, "max_seq_length", None)
    for number, (ids, labels) in enumerate(rows(dataset)):
        learnt = {label for label in labels[1:] if label != IGNORED}  # nothing predicts the first token
        if not learnt:
            raise LessonError(
                "{name}, row {number}: every label is -100, there is nothing to learn. Look at the row with "
                "views.token_mask.",
                name=name, number=number,
            )
        if not learnt & ends:
            raise LessonError(
                "{name}, row {number}: no label is an end token (EOS, {ends}), so the model would never "
                "learn to stop. Use formatting.encode(..., eos=True).",
                name=name, number=number, ends=sorted(ends),
            )
        if max_length is not None and len(ids) > max_length:
            raise LessonError(
                "{name}, row {number}: {count} tokens, more than max_length={max_length}; trl would cut the "
                "end off. Leave max_length out of sft_config: formatting.encode has seen to it.",
                name=name, number=number, count=len(ids), max_length=max_length,
            )
        if longest is not None and len(ids) > longest:
            raise LessonError(
                "{name}, row {number}: {count} tokens, but the model was loaded for {longest}; on a GPU "
                "Unsloth would cut the end off without a word. Load it again with models.load(..., "
                "max_seq_length=...), or encode (formatting.encode_chats) with a smaller max_length.",
                name=name, number=number, count=len(ids), longest=longest,
            )
