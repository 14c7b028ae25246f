"""The memory ledger of a dry run: after each cell, which model-sized objects live, at their real sizes.

A learner's kernel forces no garbage collection, and nor does this: what waits to be collected takes memory
and counts. `start` runs in the kernel of a dry run before the first cell; it writes one line of JSON a cell.
What it measures on a twin is which objects live; how large each would be comes from `models.skeleton`.

What it takes for granted: every model lies on the card (the simulated card is the CPU, so the two can't be
told apart); frozen float weights have 2 bytes, trained ones and their gradients 4, 4-bit ones what
bitsandbytes stores; a part of a block stands for as many as the real model has. Not in it: memory of child
processes (llama.cpp), the CUDA context (`training.memory_plan` keeps 1 GiB for it), files that the system
maps.
"""

import functools
import gc
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lessonlib.models._loading import CATALOGUE, skeleton
from lessonlib.models._quantisation import constant_bytes, packed_bytes

GIB = 2**30
BARS = {"gpu": 13.5, "host": 10.0}  # GiB
# So that a lesson takes minutes on a CPU: a training that reads more than so many tokens ends after so many
# steps (shorter ones stay whole: lesson 01 looks at their checkpoints), an answer after so many tokens.
LONG_TRAINING, CUT_STEPS, CUT_TOKENS = 150_000, 60, 32
SHARD = 2 * 10**9  # bytes that export.merge copies to the host at once (max_shard_size)
_LEARNT = (".lora_", "trainable_tokens_delta", "modules_to_save")
_MODELS = {model.model_type: model.key for model in CATALOGUE.values() if model.twin is not None}


class Sizes:
    """The real sizes behind the parameters of one twin.

    Args:
        key: of the catalogue.
        layers: blocks of the twin.
    """

    def __init__(self, key: str, layers: int) -> None:
        real = skeleton(key)
        self.real = {name: tuple(weight.shape) for name, weight in real.named_parameters()}
        self.config = real.config
        self.ratio = real.config.num_hidden_layers / layers

    def bytes(self, name: str, weight: Any) -> tuple[int, int]:
        """What this parameter of the twin takes on the real model: (bytes, numbers), all blocks together."""
        plain = name.replace(".token_adapter", "").replace(".base_layer", "").replace(".original_module", "")
        times = self.ratio if any(part.isdigit() for part in plain.split(".")) else 1
        shape = self._shape(plain, weight)
        numbers = 1
        for side in shape:
            numbers *= side
        if hasattr(weight, "quant_state"):
            size: float = packed_bytes([numbers]) + constant_bytes([numbers])
        else:
            # Only what LoRA adds is trained; a model that was just loaded says so of all its weights.
            learnt = weight.requires_grad and any(part in plain for part in _LEARNT)
            size = numbers * (4 if learnt else 2)
        return round(size * times), round(numbers * times)

    def _shape(self, name: str, weight: Any) -> tuple[int, ...]:
        before, found, after = name.partition(".lora_")
        if found and f"{before}.weight" in self.real:
            out, into = self.real[f"{before}.weight"]
            rank = weight.shape[0] if after[0] == "A" else weight.shape[-1]
            return (rank, into) if after[0] == "A" else (out, rank)
        if "trainable_tokens_delta" in name:
            return (weight.shape[0], self.config.hidden_size)
        return self.real.get(name, tuple(weight.shape))


def measure(cache: dict[tuple[str, int], Sizes] | None = None) -> list[tuple[str, int]]:
    """The models, loose layers, gradients and optimiser states that live in this process.

    Returns:
        (what, bytes on the card) of each; nothing is collected before.
    """
    if "torch" not in sys.modules:
        return []
    from torch import nn, optim

    cache = {} if cache is None else cache
    alive = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module | optim.Optimizer)]
    models = [thing for thing in alive if "ForCausalLM" in type(thing).__name__ and hasattr(thing, "config")]
    # Unsloth's and peft's own wrappers hold the same parameters: each counts once, where it is found first.
    found: list[tuple[str, int]] = []
    counted: dict[int, tuple[int, int]] = {}
    by_shape: dict[tuple[int, ...], tuple[Sizes, str, int]] = {}
    for model in models:
        key = _MODELS.get(model.config.model_type)
        if key is None or model.device.type == "meta":
            continue
        layers = model.config.num_hidden_layers
        if (key, layers) not in cache:
            cache[key, layers] = Sizes(key, layers)
        sizes = cache[key, layers]
        total = gradients = 0
        four_bit = False
        for name, weight in model.named_parameters():
            if weight.device.type == "meta" or _place(weight) in counted:
                continue
            counted[_place(weight)] = sizes.bytes(name, weight)
            four_bit = four_bit or hasattr(weight, "quant_state")
            total += counted[_place(weight)][0]
            if weight.grad is not None:
                gradients += 4 * counted[_place(weight)][1]
            if weight.dim() == 2 and ".lora_" not in name:
                *_, seen = by_shape.get(tuple(weight.shape), (sizes, name, 0))
                by_shape[tuple(weight.shape)] = (sizes, name, seen + 1)
        if total:
            kind = "nf4" if four_bit else "fp16"
            found.append((f"{key} {kind}, {_name_of(model)}", total))
        if gradients:
            found.append((f"gradients of {_name_of(model)}", gradients))
    found += _loose([thing for thing in alive if isinstance(thing, nn.Module)], counted, by_shape)
    found += [
        (f"states of {type(thing).__name__}", size)
        for thing in alive
        # accelerate's wrapper shows the states of the optimiser inside it
        if isinstance(thing, optim.Optimizer) and type(thing).__name__ != "AcceleratedOptimizer"
        and (size := _states(thing, counted))
    ]  # fmt: skip
    return found


def _loose(
    modules: Iterable[Any], counted: dict[int, tuple[int, int]],
    by_shape: Mapping[tuple[int, ...], tuple[Sizes, str, int]],
) -> list[tuple[str, int]]:
    """Layers that belong to no living model, such as those that a merge replaced and nothing collected."""
    loose: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for module in modules:
        for weight in list(module._parameters.values()):
            if weight is None or weight.device.type == "meta" or _place(weight) in counted:
                continue
            known = by_shape.get(tuple(weight.shape))
            if known is None:
                continue
            sizes, name, _ = known
            counted[_place(weight)] = sizes.bytes(name, weight)
            loose.setdefault(tuple(weight.shape), []).append(counted[_place(weight)])
    size = layers = 0
    for shape, found in loose.items():
        sizes, name, of_model = by_shape[shape]
        # As many as a whole model has are what is left of one, and stand for all its blocks; fewer are copies
        # of single layers, as a lesson makes them, and stand for themselves.
        times = 1 if len(found) >= of_model or not any(p.isdigit() for p in name.split(".")) else sizes.ratio
        size, layers = size + round(sum(one for one, _ in found) / times), layers + len(found)
    return [(f"{layers} layers of no model", size)] if size else []


def _states(optimiser: Any, counted: Mapping[int, tuple[int, int]]) -> int:
    """Adam's two states of each parameter: 8 bytes a number, 2 in 8 bits from 4,096 numbers on."""
    size = 0
    small = "8bit" in type(optimiser).__name__ or "8" in str(getattr(optimiser, "optim_bits", ""))
    for weight in optimiser.state:
        _, numbers = counted.get(_place(weight), (0, 0))
        size += (2 if small and numbers >= 4096 else 8) * numbers
    return size


def _name_of(thing: Any) -> str:
    """The variables of the notebook that hold this model, by itself or inside peft's or a trainer."""
    shell = sys.modules.get("IPython")
    kernel = shell.get_ipython() if shell else None
    names = []
    for name, value in (dict(kernel.user_ns) if kernel else {}).items():
        if name.startswith("_"):
            continue
        held: Any = getattr(value, "model", None) if type(value).__name__.endswith("Trainer") else value
        # Only peft's wrappers are opened: other objects may do work when they are asked for an attribute.
        if type(held).__name__.startswith("Peft"):
            held = held.get_base_model()
        if held is thing:
            names.append(name)
    return " = ".join(names) or "no variable"


def start(path: str) -> None:
    """In the kernel, before the first cell: cut what takes long, count it uncut, write to `path`."""
    from IPython import get_ipython

    recorder = Recorder(Path(path))
    recorder.watch()
    get_ipython().events.register("post_run_cell", recorder.cell)


class Recorder:
    """Collects what happens in one cell, and writes it when the cell is over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes: dict[tuple[str, int], Sizes] = {}
        self.peaks: list[dict[str, Any]] = []
        self.counts: list[dict[str, Any]] = []

    def cell(self, result: Any) -> None:
        """IPython's event after each cell."""
        alive = measure(self.sizes)
        line = {
            "alive": alive, "peaks": self.peaks, "counts": self.counts, "host": _resident(),
            "models": sorted({key for key, _ in self.sizes}),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.peaks, self.counts = [], []

    def peak(self, when: str, extra: int = 0, host: int = 0, plan: int | None = None) -> None:
        """A moment inside a cell; `extra` bytes on the card beside what lives, `host` on the host."""
        self.peaks.append(
            {"when": when, "alive": measure(self.sizes), "extra": extra, "host": host, "plan": plan}
        )

    def watch(self) -> None:
        """Puts itself around the four doors of lessonlib: training, answers, losses, merging."""
        import lessonlib.evaluation._answers as answers
        import lessonlib.export._saving as saving
        import lessonlib.serving
        import lessonlib.tools
        import lessonlib.training._trainer as trainer
        import lessonlib.views

        _replace(answers.continuations, self._continuations)
        _replace(answers.answer_losses, self._losses)
        _replace(trainer.fit, self._fit)
        _replace(saving._make_ready, self._merged)
        for name in ("ask_llama_cpp", "ask_gpt4all"):
            _replace(getattr(lessonlib.serving, name), self._gguf)

    def _continuations(
        self, real: Callable[..., Any], model: Any, tokenizer: Any, prompts: Sequence[str],
        *, max_new_tokens: int = 64, batch_size: int = 32, **more: Any,
    ) -> Any:
        lengths = sorted((len(tokenizer(prompt)["input_ids"]) for prompt in prompts), reverse=True)
        key = _key(model)
        if key and lengths:
            self.peak(f"answers, {min(batch_size, len(prompts))} at once", self._cache(
                model, min(batch_size, len(prompts)), lengths[0] + max_new_tokens
            ))
        cut = min(CUT_TOKENS, max_new_tokens)
        found = real(model, tokenizer, prompts, max_new_tokens=cut, batch_size=batch_size, **more)
        # An answer that was cut is counted at its full length: more than a real model mostly writes.
        wrote = [max_new_tokens if len(answer) == cut else len(answer) + 1 for answer in found]
        order = sorted(range(len(wrote)), key=lambda row: len(prompts[row]), reverse=True)
        steps = sum(
            max(wrote[row] for row in order[at : at + batch_size]) for at in range(0, len(order), batch_size)
        )
        self.counts.append({
            "what": "answers", "model": key, "four_bit": _four_bit(model), "rows": len(prompts),
            "prompt_tokens": sum(lengths), "tokens": sum(wrote), "steps": steps,
        })  # fmt: skip
        return found

    def _losses(
        self, real: Callable[..., Any], model: Any, dataset: Any, *, batch_size: int = 16, **more: Any
    ) -> Any:
        lengths = sorted(map(len, dataset["input_ids"]), reverse=True)
        if (key := _key(model)) and lengths:
            config = self._of(model).config
            logits = min(batch_size, len(lengths)) * lengths[0] * config.vocab_size * 2
            # Soft-capped logits are made from the raw ones: for a moment both are there (modeling_gemma2.py).
            self.peak("losses", logits * (2 if getattr(config, "final_logit_softcapping", None) else 1))
        self.counts.append({
            "what": "losses", "model": key, "four_bit": _four_bit(model), "rows": len(lengths),
            "tokens": sum(lengths),
        })  # fmt: skip
        return real(model, dataset, batch_size=batch_size, **more)

    def _fit(self, real: Callable[..., Any], trainer: Any) -> Any:
        from transformers import TrainerCallback

        recorder, args = self, trainer.args
        lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
        key, seen = _key(trainer.model), {"steps": 0}
        long = sum(lengths) * max(args.num_train_epochs, 1) > LONG_TRAINING

        class Watch(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                seen["steps"] = state.max_steps

            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 1 and key:  # the second step: the optimiser has its states
                    passing, plan = recorder._passing(trainer, max(lengths))
                    recorder.peak("a training step", passing, plan=plan)

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == CUT_STEPS < state.max_steps and long:
                    control.should_evaluate = args.eval_strategy != "no"
                    control.should_save = args.save_strategy != "no"
                    control.should_training_stop = True

        trainer.add_callback(Watch())
        output = real(trainer)
        share = seen["steps"] * args.per_device_train_batch_size * args.gradient_accumulation_steps
        rows = len(lengths)
        mean = sum(lengths) / rows
        batches = [
            max(part) for start in range(0, rows, args.per_device_train_batch_size)
            if (part := lengths[start : start + args.per_device_train_batch_size])
        ]
        evaluations = 0
        if trainer.eval_dataset is not None and args.eval_strategy != "no":
            epoch = seen["steps"] / max(args.num_train_epochs, 1)
            every = epoch if args.eval_strategy == "epoch" else args.eval_steps
            evaluations = round(seen["steps"] / max(every, 1))
            held = sum(map(len, trainer.eval_dataset["input_ids"]))
            self.counts.append({
                "what": "losses", "model": key, "four_bit": _four_bit(trainer.model),
                "rows": evaluations * len(trainer.eval_dataset), "tokens": evaluations * held,
            })  # fmt: skip
        self.counts.append({
            "what": "training", "model": key, "four_bit": _four_bit(trainer.model), "steps": seen["steps"],
            "rows": share, "tokens": round(share * mean), "checkpointing": bool(args.gradient_checkpointing),
            "longest": max(batches),
        })  # fmt: skip
        return output

    def _passing(self, trainer: Any, length: int) -> tuple[int, int | None]:
        """(bytes of activations and logits, the whole plan's bytes) by training.memory_plan."""
        from copy import deepcopy

        from lessonlib.training._memory import plan

        args, key = trainer.args, _key(trainer.model)
        peft = getattr(trainer.model, "peft_config", None)
        settings = deepcopy(next(iter(peft.values()))) if peft else None
        if settings is not None:
            settings.trainable_token_indices = None  # a few rows; the real tokenizer's ids differ
        table = plan(
            skeleton(str(key)), lora=settings, batch_size=args.per_device_train_batch_size, length=length,
            checkpointing=bool(args.gradient_checkpointing),
            loss="chunked" if getattr(args, "loss_type", "") == "chunked_nll" else "full",
            quantisation="nf4" if _four_bit(trainer.model) else "none",
        ).set_index("part")["bytes"]  # fmt: skip
        return int(table["activations"] + table["logits"]), int(table["total"])

    def _merged(self, real: Callable[..., Any], merged: Any, *arguments: Any) -> Any:
        real(merged, *arguments)
        known = self._of(merged) if _key(merged) else None
        whole = sum(known.bytes(*pair)[0] for pair in merged.named_parameters()) if known else 0
        self.peak("merge and save", host=min(SHARD, whole))

    def _gguf(self, real: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        self.counts.append({"what": "gguf", "rows": 1, "tokens": settings.get("max_tokens", 64)})
        return real(*arguments, **settings)

    def _of(self, model: Any) -> Sizes:
        which = str(_key(model)), model.config.num_hidden_layers
        if which not in self.sizes:
            self.sizes[which] = Sizes(*which)
        return self.sizes[which]

    def _cache(self, model: Any, rows: int, length: int) -> int:
        """Keys and values of `rows` answers in fp16, and one fp32 row of logits each."""
        config = self._of(model).config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return rows * (length * config.num_hidden_layers * 2 * heads * width * 2 + config.vocab_size * 4)


def _replace(real: Callable[..., Any], wrapper: Callable[..., Any]) -> None:
    """`wrapper(real, ...)` in place of `real`, wherever a module of lessonlib holds it."""

    @functools.wraps(real)
    def instead(*arguments: Any, **settings: Any) -> Any:
        return wrapper(real, *arguments, **settings)

    for module in [module for name, module in sys.modules.items() if name.startswith("lessonlib")]:
        for name, value in list(vars(module).items()):
            if value is real:
                setattr(module, name, instead)


def _place(weight: Any) -> int:
    """Where its numbers lie: two tensors on the same numbers count once."""
    return int(weight.untyped_storage().data_ptr())


def _key(model: Any) -> str | None:
    return _MODELS.get(getattr(model.config, "model_type", ""))


def _four_bit(model: Any) -> bool:
    return any(hasattr(weight, "quant_state") for weight in model.parameters())


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def rows(lines: Iterable[Mapping[str, Any]], ids: Sequence[str]) -> list[dict[str, Any]]:
    """The ledger of a lesson: each cell's fullest moment.

    Args:
        lines: what the kernel wrote, one of each executed cell.
        ids: of these cells, in order.

    Returns:
        cell, when, gpu and host in GiB, plan in GiB (training.memory_plan for what is trained, else None),
        what (each object with its GiB, the largest first), over (whether a bar is exceeded).
    """
    made = []
    for name, line in zip(ids, lines, strict=False):
        after = {"when": "after", "alive": line["alive"], "extra": 0, "host": 0, "plan": None}
        moments = [after, *line["peaks"]]
        fullest = max(moments, key=lambda moment: sum(size for _, size in moment["alive"]) + moment["extra"])
        gpu = (sum(size for _, size in fullest["alive"]) + fullest["extra"]) / GIB
        host = (line["host"] + max(moment["host"] for moment in moments)) / GIB
        parts = sorted(fullest["alive"], key=lambda pair: -pair[1])
        what = [f"{part} {size / GIB:.2f}" for part, size in parts if size >= GIB / 100]
        if fullest["extra"] >= GIB / 100:
            what.append(f"passing (activations, logits, caches) {fullest['extra'] / GIB:.2f}")
        plan = max((moment["plan"] for moment in moments if moment["plan"]), default=None)
        made.append({
            "cell": name, "when": fullest["when"], "gpu": round(gpu, 2), "host": round(host, 2),
            "plan": round(plan / GIB, 2) if plan else None, "what": what,
            "over": gpu > BARS["gpu"] or host > BARS["host"],
        })  # fmt: skip
    return made


def markdown(lesson: str, ledger: Iterable[Mapping[str, Any]]) -> str:
    """The table of `rows`, cells without a model left out."""
    lines = [
        f"# Memory ledger of lesson {lesson}, profile t4", "",
        f"GiB at each cell's fullest moment; at most {BARS['gpu']} on the card and {BARS['host']:.0f} on the "
        "host. Computed from what lives in a dry run; nothing here ran on a T4. What it takes for granted: "
        "`lessonlib_course/ledger.py`.", "",
        "| cell | moment | GPU | host | memory_plan | what |", "|---|---|---|---|---|---|",
    ]
    for row in ledger:
        if row["what"]:
            mark = " **over**" if row["over"] else ""
            plan = "" if row["plan"] is None else f"{row['plan']:.2f}"
            lines.append(
                f"| `{row['cell']}` | {row['when']} | {row['gpu']:.2f}{mark} | {row['host']:.2f} | {plan} | "
                f"{'; '.join(row['what'])} |"
            )
    return "\n".join(lines) + "\n"
