"""The article's recipe for BLOOM against the lesson's, on the same twin, rows, seed and machine.

`python benchmarks/recipe.py` runs four parts in turn, each in a process of its own (peak memory is a number
of a process): the article's recipe as printed; the same with the padding kept out of the loss; the lesson's,
to the final held-out loss of either and on; and the same model fed nothing but content, which is the limit.
README.md here says how to read it.
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
    "lora": {"r": 8, "alpha": 32, "dropout": 0.05},  # on query_key_value, peft's default for BLOOM
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
# The lesson's, for the twin, cut to 60 steps (tests/benchmarks/test_recipe.py holds the two alike).
LESSON: dict[str, Any] = {
    "lora": {"r": 16, "alpha": 32, "dropout": 0.05},  # on all linear layers
    "training": {
        "per_device_train_batch_size": 8,
        "warmup_steps": 20,
        "max_steps": 60,
        "learning_rate": 3e-3,
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
        from lessonlib.lora._config import lora_config

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
        from lessonlib.evaluation._answers import answer_loss

        model: Any = self.model
        return answer_loss(model, self.held_out)


def clock(look: Any) -> Any:
    """A Trainer callback that keeps the CPU seconds (and those by the clock) that training has taken so far.

    What `look(step, seconds)` does after each step is not counted.
    """
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        seconds = by_the_clock = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.since = time.process_time(), time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds += time.process_time() - self.since[0]
            self.by_the_clock += time.perf_counter() - self.since[1]
            look(state.global_step, self.seconds)
            self.since = time.process_time(), time.perf_counter()

    return Clock()


def peak_memory() -> float:
    """The most memory that this process has held so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def result(parts: Parts, tokens: Tokens, timer: Any, peak: float, **more: Any) -> dict[str, Any]:
    """What a recipe hands to the table."""
    return {
        "content_share": tokens.content / tokens.computed,
        "useful_per_second": tokens.content / timer.seconds,
        "seconds": timer.seconds,
        "by_the_clock": timer.by_the_clock,
        "peak": peak,
        "peak_above_loaded": peak - parts.loaded,
        **more,
    }


def article(mended: bool) -> dict[str, Any]:
    """The recipe as printed, with the collator that the article leaves out (without it nothing runs).

    Args:
        mended: leave the line out that makes padding count in the loss; nothing else changes.
    """
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    parts = Parts(ARTICLE["lora"], ["query_key_value"])
    tokenizer, length = parts.tokenizer, ARTICLE["length"]
    before = parts.loss()
    tokenizer.padding_side = "left"  # BLOOM's own; `models.load` sets the other

    def tokenise(row: dict[str, str]) -> Any:
        text = f"Human: {row['question']} Assistant: {row['answer']}"  # no EOS
        return tokenizer(text, padding="max_length", truncation=True, max_length=length)

    rows = parts.splits["train"].map(tokenise, remove_columns=parts.splits["train"].column_names)
    if not mended:
        tokenizer.pad_token = tokenizer.eos_token  # too late: the rows hold <pad>, which now has loss
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
    return result(parts, tokens, timer, peak, before=before, after=parts.loss(), logged=losses)


def lesson(targets: list[float]) -> dict[str, Any]:
    """The lesson's recipe; looks at the held-out loss after each step until it has been below each target."""
    from lessonlib import training

    parts = Parts(LESSON["lora"], "all")
    before = parts.loss()
    reached: dict[int, tuple[int, float]] = {}  # which target: step, seconds

    def look(step: int, seconds: float) -> None:
        if len(reached) < len(targets):
            loss = parts.loss()
            for which, target in enumerate(targets):
                if loss <= target and which not in reached:
                    reached[which] = step, seconds

    timer = clock(look)
    config = training.sft_config(parts.runtime, "run", seed=SEED, disable_tqdm=True, **LESSON["training"])
    trainer = training.trainer(parts.model, parts.tokenizer, parts.rows, config=config, callbacks=[timer])
    tokens = Tokens()
    tokens.watch(parts.model)
    training.fit(trainer)
    peak = peak_memory()
    found = [reached.get(which) for which in range(len(targets))]
    return result(parts, tokens, timer, peak, before=before, after=parts.loss(), reached=found)


def limit() -> dict[str, Any]:
    """The same model and optimiser, all content: rows laid end to end in batches of the lesson's shape.

    No padding, nothing recomputed, no logits where there is no loss, no Trainer around it. BLOOM reads across
    rows that are packed like this, so this measures speed and trains nothing worth having.
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
    model: Any = parts.model.get_base_model()
    model.train()
    trainable = [it for it in model.parameters() if it.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=LESSON["training"]["learning_rate"], fused=True)
    began = time.process_time()
    for step in range(LIMIT_STEPS + WARM_UP_STEPS):
        if step == WARM_UP_STEPS:
            began = time.process_time()
        at = step % whole
        hidden = model.transformer(ids[at], attention_mask=torch.ones_like(ids[at])).last_hidden_state
        carries = labels[at, :, 1:] != -100  # (batch, width - 1): the head is for tokens with loss only
        logits = model.lm_head(hidden[:, :-1][carries])  # (tokens with loss, vocabulary)
        torch.nn.functional.cross_entropy(logits, labels[at, :, 1:][carries]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"useful_per_second": LIMIT_STEPS * batch * width / (time.process_time() - began)}


def run(*arguments: str) -> dict[str, Any]:
    """One part in a process of its own, on one thread: there, CPU seconds are seconds on an idle machine."""
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "LESSONLIB_HEADLESS": "1"}
    environment = os.environ | settings | {"LESSONLIB_LANG": "en"}
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(theirs: dict[str, Any], mended: dict[str, Any], ours: dict[str, Any], limit: float) -> str:
    """The table, the ratios and the distance to the limit."""
    columns, logged = (theirs, mended, ours), theirs["logged"]

    def row(name: str, key: str, form: str) -> str:
        return f"{name:<34}" + "".join(f"{column[key]:>12{form}}" for column in columns)

    lines = [
        f"{'':<34}{'article':>12}{'mended':>12}{'lesson':>12}",
        row("computed tokens that are content", "content_share", ".1%"),
        row("useful tokens per CPU second", "useful_per_second", ".0f"),
        row("held-out loss before", "before", ".3f"),
        row("held-out loss at the end", "after", ".3f"),
        row("CPU seconds of training", "seconds", ".1f"),
        row("seconds by the clock", "by_the_clock", ".1f"),
        row("peak memory, MB", "peak", ".0f"),
        row("  above that of the loaded model", "peak_above_loaded", ".0f"),
        "",
        f"The article logs a loss of {logged[0]:.2f} in step 1, {logged[-1]:.2f} in step {len(logged)}.",
    ]
    if theirs["after"] >= theirs["before"]:
        lines.append("It does not lower the held-out loss: the untrained model is below its final one.")
    share, fast = ours["content_share"], ours["useful_per_second"]
    for name, other, reached in zip(("article", "mended"), columns, ours["reached"], strict=False):
        memory = other["peak_above_loaded"] / ours["peak_above_loaded"]
        lines += [
            "",
            f"Lesson against {name}: {share / other['content_share']:.1f} x the share of content,",
            f"  {fast / other['useful_per_second']:.1f} x the useful tokens per CPU second,",
            f"  {memory:.1f} x less memory on top of the model,",
            f"  {_time_to(other, reached)}",
        ]
    lines += [
        "",
        "Limit (all tokens are content, nothing is computed twice, no Trainer): "
        f"{limit:.0f} useful tokens per CPU second.",
        f"The lesson is at {fast / limit:.0%} of it; {1 - share:.0%} of what it computes is padding. "
        f"The article is at {theirs['useful_per_second'] / limit:.1%}.",
    ]
    return "\n".join(lines)


def _time_to(other: dict[str, Any], reached: list[float] | None) -> str:
    if reached is None:
        return f"its final held-out loss of {other['after']:.3f} was not reached."
    step, seconds = reached
    return (
        f"{other['seconds'] / seconds:.0f} x less time to its final held-out loss of {other['after']:.3f}: "
        f"{seconds:.2f} s, step {step}."
    )


def main() -> int:
    """Run all parts and print the report; with --part, one part as JSON. 1 if a target was not reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["article", "mended", "lesson", "limit"], help=argparse.SUPPRESS)
    parser.add_argument("--targets", type=float, nargs="*", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        part = {
            "article": lambda: article(mended=False),
            "mended": lambda: article(mended=True),
            "lesson": lambda: lesson(chosen.targets),
            "limit": limit,
        }[chosen.part]
        print(json.dumps(part()))
        return 0
    theirs, mended = run("--part", "article"), run("--part", "mended")
    ours = run("--part", "lesson", "--targets", repr(theirs["after"]), repr(mended["after"]))
    print(report(theirs, mended, ours, run("--part", "limit")["useful_per_second"]))
    return 1 if None in ours["reached"] else 0


if __name__ == "__main__":
    sys.exit(main())
