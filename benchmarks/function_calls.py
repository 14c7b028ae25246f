"""Lesson 04's fine-tuning with several seeds: how often are the calls right, and is that luck?

`python benchmarks/function_calls.py --seeds 1 2 3` trains the Gemma-2 twin as the lesson does, once for each
seed, and prints for each split: right calls, right abstention, valid requests refused. The base comes first.
It measures quality, no time. README.md here says what was found.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

STYLE, LENGTH = "compact", 384
SPLITS = ("test", "new_wordings", "unseen_tools")
# The lesson's numbers for the twin (tests/benchmarks/test_calls_benchmark.py holds the two to the same).
LORA: dict[str, Any] = {"r": 16, "alpha": 32, "dropout": 0.0}
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 6e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "num_train_epochs": 2,
    "train_sampling_strategy": "group_by_length",
}


def rates(model: Any, tokenizer: Any, splits: Any) -> dict[str, str]:
    """Each rate of each split, as text with its interval."""
    from lessonlib import evaluation, tools

    found: dict[str, str] = {}
    for split in SPLITS:
        turns = tools.turns(splits[split], which="all")
        asked = tools.prompts(turns, tokenizer, style=STYLE)
        said = tools.replies(model, tokenizer, asked, max_new_tokens=128, batch_size=64)
        report = tools.report(turns, [tools.parse(text) for text in said])
        table = evaluation.table(tools.rates({"model": report}))
        found |= {f"{split}: {rate}": str(table.loc[rate, "model"]) for rate in table.index}
    return found


def trained(seed: int, folder: Path) -> tuple[Any, Any]:
    """The twin after the lesson's fine-tuning with this seed."""
    from lessonlib import data, formatting, lora, models, runtime, tools, training

    rt = runtime.detect(family="gemma2", work=folder)
    base, tokenizer = models.load("gemma-2-2b", rt)
    ids = lora.add_tokens(base, tokenizer, tools.TAGS)
    rows = formatting.encode_chats(
        tools.chats(data.load_chats("function_calls")["train"], style=STYLE), tokenizer, max_length=LENGTH
    )
    model = lora.attach(base, lora.lora_config(base, **LORA, new_tokens=ids), rt, seed=seed)
    config = training.sft_config(
        rt, folder / f"seed-{seed}", **TRAINING, max_length=LENGTH, seed=seed, save_strategy="no",
        logging_steps=50,
    )
    trainer = training.trainer(model, tokenizer, rows, config=config)
    training.fit(trainer)
    return trainer.model, tokenizer


def main() -> None:
    """Base and tuned models side by side."""
    import pandas as pd

    from lessonlib import data, lora, models, runtime, tools

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    seeds = parser.parse_args().seeds
    splits = data.load_chats("function_calls")
    with tempfile.TemporaryDirectory() as folder:
        base, tokenizer = models.load("gemma-2-2b", runtime.detect(family="gemma2", work=folder))
        lora.add_tokens(base, tokenizer, tools.TAGS)
        found = {"base": rates(base, tokenizer, splits)}
        for seed in seeds:
            found[f"seed {seed}"] = rates(*trained(seed, Path(folder)), splits)
            print(pd.DataFrame(found).to_string(), flush=True)


if __name__ == "__main__":
    main()
