"""Run by tests/runtime/test_unsloth.py in a process of its own: importing Unsloth changes trl for good.

`unsloth_run.py both FOLDER` plays the lesson's training with both backends on the Llama twin, in an empty
folder and without a network; `without` is for a machine on which Unsloth will not start. What happened is
written into FOLDER/result.json. The plain backend comes first, so Unsloth is imported in the order that it
warns of.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

ASKED: list[str] = []  # what anybody wanted from the network
TEMPLATE = {"date_string": "26 Jul 2024"}
STEPS = 10
RECIPE = {
    "max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    "learning_rate": 2e-3, "warmup_steps": 2, "lr_scheduler_type": "linear", "weight_decay": 0.001,
    "seed": 3407, "logging_steps": 1, "save_strategy": "no",
}  # fmt: skip
KEY = "llama-3.2-3b"


def block_the_network() -> None:
    def refuse(*arguments: object, **_: object) -> None:
        ASKED.append(repr(arguments[:2]))
        raise OSError("no network in this test")

    socket.socket.connect = refuse
    socket.socket.connect_ex = refuse
    socket.getaddrinfo = refuse


@contextmanager
def listening(said: dict):
    """What is written to stdout and stderr meanwhile, by whomever."""
    with tempfile.TemporaryFile("w+") as file:
        kept = os.dup(1), os.dup(2)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(kept, 1):
                os.dup2(copy, number)
            file.seek(0)
            said["text"] = file.read()


def digest(tensors) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().float().numpy().tobytes())
    return found.hexdigest()


def facts(tokenizer) -> dict:
    """All that tells tokenizers apart: ids, template, special tokens, what is saved."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Đơn hàng của tôi đâu? 🤖"}], tokenize=False, **TEMPLATE
    )
    return {
        "saved": tokenizer.backend_tokenizer.to_str(),
        "settings": {name: str(value) for name, value in sorted(tokenizer.init_kwargs.items())},
        "template": tokenizer.chat_template,
        "ids": tokenizer(rendered)["input_ids"],
        "special": {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
        "padding": [tokenizer.padding_side, tokenizer.pad_token_id, tokenizer.eos_token_id],
        "length": tokenizer.model_max_length,
    }


class Lesson:
    """The lesson's steps with one backend."""

    def __init__(self, backend: str, folder: Path) -> None:
        from lessonlib.data import _splits as data
        from lessonlib.formatting import _chat as chat
        from lessonlib.models import _loading as models
        from lessonlib.runtime import _detect as runtime

        self.rt = runtime.detect(family="llama", backend=backend, gpu=None, work=folder)
        self.model, self.tokenizer = models.load(KEY, self.rt)
        splits = data.load_chats("customer_support_vi")
        self.rows = {
            name: chat.encode(split, self.tokenizer, max_length=2048, template_options=TEMPLATE)
            for name, split in splits.items()
        }
        self.chats = splits
        lengths = [len(ids) for ids in self.rows["train"]["input_ids"]]
        shortest = sorted(range(len(lengths)), key=lengths.__getitem__)[:64]
        self.train_rows = self.rows["train"].select(shortest)
        self.held_out = self.rows["validation"].select(range(4))

    def adapted(self, seed: int = 3407):
        from lessonlib.lora import _config as lora
        from lessonlib.models import _loading as models

        model, _ = models.load(KEY, self.rt)
        return lora.attach(model, lora.lora_config(model, r=16, alpha=16), self.rt, seed=seed)

    def trainer(self, name: str, *, seed: int = 3407, stop_at: int | None = None, **settings):
        from transformers import TrainerCallback

        from lessonlib.training import _trainer as training

        class Kill(TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                if state.global_step == stop_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        config = training.sft_config(self.rt, name, **(RECIPE | settings))
        return training.trainer(
            self.adapted(seed), self.tokenizer, self.train_rows, eval_dataset=self.held_out, config=config,
            callbacks=[Kill()],
        )  # fmt: skip

    def losses(self, name: str, **settings) -> list[float]:
        from lessonlib.training import _trainer as training

        trainer = self.trainer(name, **settings)
        training.fit(trainer)
        return training.history(trainer)["loss"].tolist()


def trained(model):
    return [weight for _, weight in sorted(model.named_parameters()) if weight.requires_grad]


def killed_and_resumed(lesson: Lesson) -> dict:
    """The same run twice, once killed at step 7 after a checkpoint at 6, and once unbroken."""
    from lessonlib.training import _trainer as training

    told = {}
    settings = {
        "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3,
        "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
    }  # fmt: skip
    child = os.fork()
    if child == 0:
        training.fit(lesson.trainer("broken", stop_at=7, **settings))
        os._exit(0)
    told["killed by"] = os.WTERMSIG(os.waitpid(child, 0)[1])
    for name in ("broken", "unbroken"):
        trainer = lesson.trainer(name, **settings)
        said: dict = {}
        with listening(said):
            training.fit(trainer)
        history = training.history(trainer)
        told[name] = {
            "weights": digest(trained(trainer.model)),
            "history": history.to_json(),
            "eval": history["eval_loss"].dropna().tolist(),
            "best": Path(trainer.state.best_model_checkpoint).name,
            "tokens": [row["num_tokens"] for row in trainer.state.log_history if "loss" in row],
            "said": said["text"],
        }
    return told


def afterwards(lesson: Lesson, plain: Lesson, folder: Path) -> dict:
    """Evaluation and exports of a model trained through Unsloth, held to plain peft with the same adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from lessonlib.evaluation import _answers as evaluation
    from lessonlib.export import _saving as export
    from lessonlib.formatting import _chat as chat
    from lessonlib.models import _loading as models
    from lessonlib.training import _trainer as training

    trainer = lesson.trainer("run")
    training.fit(trainer)
    model = trainer.model
    told = {"training": model.training, "cache": model.config.use_cache}
    asked, _ = chat.prompts(
        lesson.chats["test"].select(range(3)), lesson.tokenizer, template_options=TEMPLATE
    )
    measured = {}
    export.save_adapter(model, lesson.tokenizer, folder / "adapter")
    base, _ = models.load(KEY, plain.rt)
    beside = PeftModel.from_pretrained(base, folder / "adapter").eval()
    batch = {name: torch.tensor([lesson.held_out[0][name]]) for name in ("input_ids", "labels")}
    for name, one in (("unsloth", model), ("plain", beside)):
        with torch.no_grad():
            output = one(**batch)
        measured[name] = {
            "answers": evaluation.answers(one, lesson.tokenizer, asked, max_new_tokens=12),
            "loss": evaluation.answer_loss(one, lesson.held_out),
            "with labels": output.loss.item(),
            "logits": digest([output.logits]),
        }
    told["measured"] = measured
    told["train after answers"] = [module.training for module in model.modules()].count(True)
    merged = export.merge(model, lesson.tokenizer, folder / "merged")
    again = AutoModelForCausalLM.from_pretrained(folder / "merged")
    export.merge(beside, lesson.tokenizer, folder / "merged plain")
    with torch.no_grad():
        here, there = model(**batch).logits, again(batch["input_ids"]).logits
    told["merged"] = {
        "difference": (here - there).abs().max().item(),
        "effect": (there - plain.model(batch["input_ids"]).logits).abs().max().item(),
        "class": type(merged).__name__,
    }
    for name in ("merged", "merged plain"):
        told[name + " files"] = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted((folder / name).iterdir())
        }
    return told


def four_bits(folder: Path) -> dict:
    import torch

    from lessonlib.lora import _config as lora
    from lessonlib.models import _loading as models
    from lessonlib.runtime import _detect as runtime

    told = {}
    for backend in ("transformers", "unsloth"):
        rt = runtime.detect(quantisation="nf4", backend=backend, gpu=None, work=folder)
        model, _ = models.load(KEY, rt)
        layers = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
        model = lora.attach(model, lora.lora_config(model), rt)
        with torch.no_grad():
            told[backend] = {"layers": layers, "logits": digest([model(torch.arange(20)[None]).logits])}
    return told


def responses_only(lesson: Lesson) -> dict:
    """Unsloth's own mask for every conversation of every split, beside that of chat.encode."""
    from unsloth import train_on_responses_only

    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    mask = train_on_responses_only(
        None, instruction_part=header.format("user"), response_part=header.format("assistant"),
        tokenizer=lesson.tokenizer, return_function=True,
    )  # fmt: skip
    told = {}
    for name, rows in lesson.rows.items():
        theirs = mask({"input_ids": rows["input_ids"]})["labels"]
        theirs = [row.tolist() if hasattr(row, "tolist") else list(row) for row in theirs]
        ours = rows["labels"]
        told[name] = {
            "rows": len(rows),
            "differ": [number for number, mine in enumerate(ours) if mine != theirs[number]],
            "theirs": len(theirs),
            "learnt": sum(label != -100 for row in ours for label in row),
            "masked": sum(label == -100 for row in ours for label in row),
        }
    return told


def refusals(lesson: Lesson) -> dict:
    from datasets import Dataset
    from peft import LoraConfig

    from lessonlib.lora import _config as lora
    from lessonlib.runtime import _unsloth as unsloth_backend
    from lessonlib.runtime._language import LessonError
    from lessonlib.training import _trainer as training

    base = lesson.model
    end = lesson.tokenizer.eos_token_id
    long = Dataset.from_list([{"input_ids": [5] * 2048 + [end], "labels": [5] * 2048 + [end]}])

    def too_long():
        training.trainer(
            lesson.adapted(), lesson.tokenizer, long, config=training.sft_config(lesson.rt, "long")
        )

    tries = {
        "packing": lambda: training.sft_config(lesson.rt, "packed", packing=True, max_length=256),
        "dora": lambda: lora.attach(base, LoraConfig(target_modules=["q_proj"], use_dora=True), lesson.rt),
        "default targets": lambda: lora.attach(base, LoraConfig(), lesson.rt),
        "too long": too_long,
        "twice": lambda: lora.attach(lesson.adapted(), LoraConfig(target_modules=["q_proj"]), lesson.rt),
    }
    told: dict = {}
    for name, attempt in tries.items():
        try:
            attempt()
            told[name] = None
        except LessonError as problem:
            told[name] = {"vi": problem.vi, "en": problem.en}
    told["other device"] = unsloth_backend.unfit("cuda")
    return told


def without_unsloth(folder: Path) -> None:
    """Asked for Unsloth where it will not start."""
    said: dict = {}
    with listening(said):
        lesson = Lesson("unsloth", folder)
    result = {"backend": lesson.rt.backend, "said": said["text"], "losses": lesson.losses("run")}
    (folder / "result.json").write_text(json.dumps(result))


def main(folder: Path) -> None:
    from lessonlib.lora import _config as lora

    block_the_network()
    result: dict = {"environment before": sorted(os.environ)}
    plain = Lesson("transformers", folder / "plain")
    result["plain"] = {
        "losses": plain.losses("run"),
        "tokenizer": facts(plain.tokenizer),
        "config": plain.model.config.to_json_string(),
        "weights": digest(plain.model.state_dict().values()),
        "A": digest(weight for name, weight in plain.adapted().named_parameters() if "lora_A" in name),
    }
    assert "unsloth" not in sys.modules
    said: dict = {}
    with listening(said):
        lesson = Lesson("unsloth", folder / "unsloth")
        model = lesson.adapted()
    result["said"] = said["text"]
    result["table"] = dict(lesson.rt.rows())
    result["imported"] = "unsloth" in sys.modules
    result["environment after"] = sorted(os.environ)

    from unsloth_zoo.cpu import ops

    calls = []
    original = ops.chunked_linear_cross_entropy
    ops.chunked_linear_cross_entropy = lambda *some, **more: calls.append(1) or original(*some, **more)
    table = lora.adapted(model)
    named = dict(model.named_parameters())
    result["unsloth"] = {
        "losses": lesson.losses("run"),
        "calls of its loss": len(calls),
        "tokenizer": facts(lesson.tokenizer),
        "config": lesson.model.config.to_json_string(),
        "weights": digest(lesson.model.state_dict().values()),
        "A": digest(weight for name, weight in named.items() if "lora_A" in name),
        "B": sum(weight.detach().abs().sum().item() for name, weight in named.items() if "lora_B" in name),
        "training": lesson.model.training,
        "dtypes": sorted({str(weight.dtype) for weight in lesson.model.parameters()}),
        "adapted": table["layers"].tolist(),
        "checkpointing": model.is_gradient_checkpointing,
    }
    result["plain after unsloth"] = plain.losses("run2")
    result["wrong"] = {
        "learning rate": lesson.losses("wrong1", learning_rate=2.2e-3),
        "seed of A": lesson.losses("wrong2", seed=1),
        "seed of the order": lesson.losses("wrong3", data_seed=1),
    }
    result["resume"] = killed_and_resumed(lesson)
    result["afterwards"] = afterwards(lesson, plain, folder)
    result["four bits"] = four_bits(folder)
    result["responses only"] = responses_only(lesson)
    said = {}
    with listening(said):
        result["refusals"] = refusals(lesson)
        from lessonlib.training import _trainer as training

        result["optimiser"] = str(training.sft_config(lesson.rt, "run", optim="adamw_8bit").optim.value)
    result["said of settings"] = said["text"]
    result["left in the folder"] = sorted(path.name for path in Path.cwd().iterdir())
    result["asked of the network"] = ASKED
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    {"both": main, "without": without_unsloth}[sys.argv[1]](Path(sys.argv[2]))
