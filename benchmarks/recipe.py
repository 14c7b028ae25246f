"""The article's recipe for BLOOM against the lesson's, on the same twin, rows, seed and machine.

`python benchmarks/recipe.py` runs three parts in turn, each in a process of its own (peak memory is a number
of a process): the article's recipe as printed, the lesson's to the article's final held-out loss and on, and
the same model fed nothing but content, which is the limit. README.md here says how to read it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SEED = 42
# As the article prints them. Its padding to 512 and its late `pad_token = eos_token` are in article() below.
ARTICLE: dict[str, Any] = {
    "lora": {"r": 8, "alpha": 32, "dropout": 0.05},  # default targets: query_key_value
    "length": 512,
    "training": {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8,
        "warmup_steps": 2,
        "max_steps": 10,
        "learning_rate": 2e-4,
        "gradient_checkpointing": True,
    },
}
# The lesson's, for the twin.
LESSON: dict[str, Any] = {
    "lora": {"r": 16, "alpha": 32, "dropout": 0.05},  # all linear layers
    "training": {
        "per_device_train_batch_size": 8,
        "warmup_steps": 2,
        "max_steps": 60,
        "learning_rate": 2e-3,
        "save_strategy": "no",
    },
}
LIMIT_STEPS = 40
WARM_UP_STEPS = 3  # of the limit's loop, not timed


@dataclass
class Tokens:
    """Tokens that went through the model in training."""

    computed: int = 0
    content: int = 0

    def watch(self, model: Any) -> None:
        """Count from now on, at every forward pass in train mode."""

        def count(module: Any, arguments: tuple, keywords: dict[str, Any]) -> None:
            if module.training:
                self.computed += keywords["input_ids"].numel()
                self.content += int(keywords["attention_mask"].sum())

        model.register_forward_pre_hook(count, with_kwargs=True)


class Parts:
    """What the parts share: the twin with LoRA, the rows, the held-out rows, and a clock."""

    def __init__(self, lora: dict[str, Any], targets: str | list[str]) -> None:
        from peft import get_peft_model
        from transformers import set_seed

        from lessonlib import data, formatting, models, runtime
        from lessonlib.lora import lora_config

        self.work = tempfile.TemporaryDirectory()
        self.runtime = runtime.detect(family="bloom", profile="rehearsal", work=self.work.name)
        base, self.tokenizer = models.load("bloom-560m", self.runtime)
        self.splits = data.load_splits("ai_qa_vi")
        self.held_out = self.encode("validation", formatting)
        self.rows = self.encode("train", formatting)
        set_seed(SEED)
        self.model = get_peft_model(base, lora_config(base, targets=targets, **lora))
        self.loaded = peak_memory()

    def encode(self, split: str, formatting: Any) -> "Dataset":
        """Prompt, answer and EOS, with loss on answer and EOS."""
        rows = formatting.to_prompt_completion(self.splits[split])
        return formatting.encode(rows, self.tokenizer, max_length=ARTICLE["length"])

    def loss(self) -> float:
        """Held-out loss: nats per token of the answers and their EOS."""
        from lessonlib.evaluation import answer_loss

        return answer_loss(self.model, self.held_out)


def clock(look: Any) -> Any:
    """A Trainer callback that keeps the seconds trained so far; `look(step, seconds)`, after each step, is not
    counted."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        seconds = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.since = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds += time.perf_counter() - self.since
            look(state.global_step, self.seconds)
            self.since = time.perf_counter()

    return Clock()


def peak_memory() -> float:
    """The most memory that this process has held so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def result(parts: Parts, tokens: Tokens, seconds: float, peak: float, **more: Any) -> dict[str, Any]:
    """What a part hands to the table."""
    return {
        "content_share": tokens.content / tokens.computed,
        "useful_per_second": tokens.content / seconds,
        "seconds": seconds,
        "peak": peak,
        "peak_above_loaded": peak - parts.loaded,
        **more,
    }


def article() -> dict[str, Any]:
    """The recipe as printed, with the collator that the article leaves out (without it nothing runs)."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    parts = Parts(ARTICLE["lora"], ["query_key_value"])
    tokenizer, length = parts.tokenizer, ARTICLE["length"]
    before = parts.loss()

    def tokenise(row: dict[str, str]) -> Any:
        text = f"Human: {row['question']} Assistant: {row['answer']}"  # no EOS
        return tokenizer(text, padding="max_length", truncation=True, max_length=length)

    rows = parts.splits["train"].map(tokenise, remove_columns=parts.splits["train"].column_names)
    tokenizer.pad_token = tokenizer.eos_token  # too late: the rows are padded with <pad>, which now has loss
    parts.model.enable_input_require_grads()  # or checkpointing has no gradient to pass on
    timer = clock(lambda step, seconds: None)
    arguments = TrainingArguments(
        parts.work.name, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, seed=SEED,
        dataloader_pin_memory=False, logging_steps=1, **ARTICLE["training"],
    )  # fmt: skip
    trainer = Trainer(
        parts.model, arguments, train_dataset=rows, callbacks=[timer],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )  # fmt: skip
    tokens = Tokens()
    tokens.watch(parts.model)
    trainer.train()
    peak = peak_memory()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return result(parts, tokens, timer.seconds, peak, before=before, after=parts.loss(), logged=losses)


def lesson(target: float) -> dict[str, Any]:
    """The lesson's recipe; looks at the held-out loss after each step until it is down to the target."""
    from lessonlib import training

    parts = Parts(LESSON["lora"], "all")
    before = parts.loss()
    reached: list[float] = []  # step and seconds

    def look(step: int, seconds: float) -> None:
        if not reached and parts.loss() <= target:
            reached.extend([step, seconds])

    timer = clock(look)
    config = training.sft_config(parts.runtime, "run", seed=SEED, disable_tqdm=True, **LESSON["training"])
    trainer = training.trainer(parts.model, parts.tokenizer, parts.rows, config=config, callbacks=[timer])
    tokens = Tokens()
    tokens.watch(parts.model)
    training.fit(trainer)
    peak = peak_memory()
    return result(parts, tokens, timer.seconds, peak, before=before, after=parts.loss(), reached=reached)


def limit() -> dict[str, Any]:
    """The same model and optimiser, all content: rows laid end to end in batches of the lesson's usual shape.

    No padding, nothing recomputed, no Trainer around it. BLOOM reads across rows that are packed like this,
    so this measures speed and trains nothing worth having.
    """
    import torch

    parts = Parts(LESSON["lora"], "all")
    rows, batch = list(parts.rows), LESSON["training"]["per_device_train_batch_size"]
    lengths = [len(row["input_ids"]) for row in rows]
    longest = [max(lengths[at : at + batch]) for at in range(0, len(rows), batch)]
    width = sum(longest) // len(longest)
    whole = sum(lengths) // (batch * width)

    def laid(name: str) -> Any:
        stream = [it for row in rows for it in row[name]][: whole * batch * width]
        return torch.tensor(stream).view(whole, batch, width)

    ids, labels = laid("input_ids"), laid("labels")
    trainable = [it for it in parts.model.parameters() if it.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=LESSON["training"]["learning_rate"], fused=True)
    tokens = Tokens()
    tokens.watch(parts.model)
    parts.model.train()
    began = time.perf_counter()
    for step in range(LIMIT_STEPS + WARM_UP_STEPS):
        if step == WARM_UP_STEPS:
            tokens.computed = tokens.content = 0
            began = time.perf_counter()
        at = step % whole
        output = parts.model(input_ids=ids[at], attention_mask=torch.ones_like(ids[at]), labels=labels[at])
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return result(parts, tokens, time.perf_counter() - began, peak_memory())


def run(*arguments: str) -> dict[str, Any]:
    """One part in a process of its own, on one thread: with two, any other load on the machine decides."""
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | os.environ
    environment = settings | {"LESSONLIB_HEADLESS": "1", "LESSONLIB_LANG": "en"}
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(theirs: dict[str, Any], ours: dict[str, Any], ideal: dict[str, Any]) -> str:
    """The table, the ratios and the distance to the limit."""
    step, seconds = ours["reached"] or (float("nan"), float("nan"))
    logged = theirs["logged"]

    def row(name: str, one: float, two: float, form: str, ratio: float | None = None, word: str = "") -> str:
        end = "" if ratio is None else f"{ratio:.1f} x {word}"
        return f"{name:<36}{one:>10{form}}{two:>10{form}}   {end}".rstrip()

    def both(key: str) -> tuple[float, float]:
        return theirs[key], ours[key]

    more, fast = ours["content_share"] / theirs["content_share"], ours["useful_per_second"]
    memory = theirs["peak_above_loaded"] / ours["peak_above_loaded"]
    return "\n".join(
        (
            f"{'':<36}{'article':>10}{'lesson':>10}",
            row("computed tokens that are content", *both("content_share"), ".1%", more, "more"),
            row("useful tokens per second", *both("useful_per_second"), ".0f",
                fast / theirs["useful_per_second"], "more"),
            row("held-out loss before", *both("before"), ".3f"),
            row("held-out loss at the end", *both("after"), ".3f"),
            row("steps to the article's final loss", len(logged), step, ".0f"),
            row("seconds to it", theirs["seconds"], seconds, ".2f", theirs["seconds"] / seconds, "less"),
            row("peak memory, MB", *both("peak"), ".0f"),
            row("  above that of the loaded model", *both("peak_above_loaded"), ".0f", memory, "less"),
            "",
            f"The article's loss as it logs it: {logged[0]:.2f} in step 1, {logged[-1]:.2f} in step {len(logged)}.",
            "Limit (every computed token is content, nothing is computed twice, no Trainer): "
            f"{ideal['useful_per_second']:.0f} useful tokens per second.",
            f"The lesson is at {fast / ideal['useful_per_second']:.0%} of it, and "
            f"{1 - ours['content_share']:.0%} of what it computes is padding; "
            f"the article is at {theirs['useful_per_second'] / ideal['useful_per_second']:.1%}.",
        )
    )  # fmt: skip


def main() -> int:
    """Run all parts and print the report; with --part, one part as JSON. 1 if the target was not reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["article", "lesson", "limit"], help=argparse.SUPPRESS)
    parser.add_argument("--target", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        done = {"article": article, "limit": limit}.get(chosen.part, lambda: lesson(chosen.target))()
        print(json.dumps(done))
        return 0
    theirs = run("--part", "article")
    ours = run("--part", "lesson", "--target", repr(theirs["after"]))
    print(report(theirs, ours, run("--part", "limit")))
    return 0 if ours["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
