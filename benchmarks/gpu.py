"""What one GPU can show of the lessons on a T4, at real size, in one command of at most eight minutes.

    python benchmarks/gpu.py [--out gpu.json] [--parts 01 02 04 03 03-unsloth] [--cap 14.2] [--minutes 8]
    python benchmarks/gpu.py --small

The course's four architectures with random weights (nothing is downloaded), on a card of 24 GB or more of
which torch may use no more than a T4 has, and which says that its capability is 7.5: so everything computes
in fp16. Each lesson's part is a process of its own and goes on after what fails in it:

    01          answers to padded prompts in fp16, with and without the guard on masks; eight steps of the
                article's recipe and of the mended one; the merge, and what it leaves behind
    02          the same for Phi-3 under sdpa; eight steps of LoRA over fp16 and of QLoRA; the merge
    04          answers of Gemma 2 in nf4; eight steps with rows for new tokens; the merge; the lab
    03          eight steps of Llama 3.2, plain
    03-unsloth  the same steps by Unsloth

Beside each peak of `torch.cuda.max_memory_allocated` stands what `training.memory_plan` says; more than 10%
apart is a failure. It prints a table and writes JSON; ends with 1 where something failed, with 2 where it
cannot run. --small rehearses all of it on a CPU with the twins' sizes, where memory is not measured.
"""

import argparse
import gc
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a clone, without installing

GIB = 2**30
CLOSE = 0.10  # how far peak and plan may be apart
LEFT = 0.05  # GiB that may stay allocated once a model is dropped: cuBLAS workspaces
WARM = 2  # steps whose time is not counted: first calls allocate, and Unsloth compiles
FAMILIES = {"bloom-560m": "bloom", "phi-3-mini": "phi3", "llama-3.2-3b": "llama", "gemma-2-2b": "gemma2"}
LOW = -20.0  # a raw attention score below -16, where fp16 meets its end (lessonlib/models/_masks.py)
Row = dict[str, Any]  # part, what, said, ok, and numbers


class Bench:
    """One part's runtime, models and meter; what it finds is written down line by line, as it is found."""

    def __init__(self, part: str, folder: Path, *, small: bool, cap: float, steps: int) -> None:
        self.part, self.folder, self.small, self.cap, self.steps = part, folder, small, cap, steps
        if not small:
            as_a_t4(cap)

    def note(self, what: str, said: str, ok: bool, **numbers: Any) -> None:
        row = {"part": self.part, "what": what, "said": said, "ok": ok} | numbers
        with (self.folder / f"{self.part}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """What fails inside is a row, and the part goes on with its memory free again."""
        try:
            yield
        except Exception as problem:  # out of memory, a kernel that is missing, a check that failed
            first = (str(problem).strip().splitlines() or [""])[0]
            self.note(what, f"FAILED, {type(problem).__name__}: {first[:300]}", ok=False)
        self.free()

    def runtime(self, key: str, *, training: bool = True, **choices: Any) -> Any:
        """As a lesson's `rt` on a T4; in small on the CPU, in fp16 for answers and fp32 for training."""
        from lessonlib.runtime import _detect as runtime

        there: dict[str, Any] = {"gpu": runtime.Gpu("as a T4", (7, 5), 14.7)}
        if self.small:
            there = {"gpu": None, "profile": "rehearsal", "dtype": "float32" if training else "float16"}
            there |= {"quantisation": "none" if key == "bloom-560m" else "nf4"}
        choices = {"backend": "transformers"} | choices
        if choices["backend"] == "unsloth":  # it wants to be imported before transformers
            from lessonlib.runtime import _unsloth

            if reason := _unsloth.unfit("cpu" if self.small else "cuda"):
                raise RuntimeError(f"Unsloth cannot be used: {reason}")
        return runtime.detect(family=FAMILIES[key], work=self.folder / "work", **there | choices)

    def load(self, key: str, rt: Any) -> tuple[Any, Any]:
        """The random model, through the course's own loader."""
        import random_model

        from lessonlib.models import _loading as models

        weights = self.folder / key
        if not weights.exists():
            weights.mkdir()
            config, tokenizer = blueprint(key, self.small)
            random_model.write(config, tokenizer, weights, device=rt.device)
        with random_model.served_from(weights):
            return models.load(key, rt)

    def free(self) -> None:
        gc.collect()
        if not self.small:
            import torch

            torch.cuda.empty_cache()

    def allocated(self, *, peak: bool = False) -> float:
        """GiB that torch holds on the card, now or at most since `restart`; 0 in small."""
        if self.small:
            return 0.0
        import torch

        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / GIB

    def of_cap(self, peak: float) -> str:
        return f"peak {peak:.2f} GiB of {self.cap}" if peak else "peak not measured"

    def restart(self) -> None:
        if not self.small:
            import torch

            torch.cuda.reset_peak_memory_stats()


def as_a_t4(cap: float) -> None:
    """Torch may use `cap` GiB of this card, and says that its capability is 7.5 and that it has no bf16."""
    import torch

    whole = torch.cuda.get_device_properties(0).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / whole), 0)
    torch.cuda.get_device_capability = lambda *_, **__: (7, 5)
    torch.cuda.is_bf16_supported = lambda *_, **__: False


def blueprint(key: str, small: bool) -> tuple[Any, Any]:
    """(the real configuration, or in small the twin's; the twin's tokenizer, which needs no download)."""
    from transformers import AutoConfig, AutoTokenizer

    from lessonlib.models import _loading as models
    from lessonlib.runtime._paths import twin_dir

    twin = twin_dir(str(models.CATALOGUE[key].twin))
    config = AutoConfig.from_pretrained(twin) if small else models.config(key)
    return config, AutoTokenizer.from_pretrained(twin)


# --- what is measured


def answers(bench: Bench, key: str, **choices: Any) -> None:
    """Answers to prompts of many lengths at once, and a batch's logits beside those of each text alone."""
    from lessonlib.evaluation._answers import continuations
    from lessonlib.evaluation._parity import USUAL, beyond_rounding, rounding

    model, tokenizer = bench.load(key, bench.runtime(key, training=False, **choices))
    prompts = ["Human: " + "Học máy là gì? " * words + "Assistant:" for words in range(1, 25)] * 2
    started = time.perf_counter()
    said = continuations(model, tokenizer, prompts, max_new_tokens=4 if bench.small else 48)
    seconds = time.perf_counter() - started
    bench.note(
        "answers, padded on the left", f"finite, {len(said)} in {seconds:.1f} s", ok=True, seconds=seconds
    )
    padded, alone = logits(model, tokenizer, prompts[:24:6])
    worst = (padded - alone).abs().max(-1).values
    usual, spread = worst.quantile(USUAL).item(), alone.std(-1).mean().item()
    bench.note(
        "its logits beside those without padding",
        f"{usual / spread:.3%} of their spread apart; rounding {rounding(model):.1%}",
        ok=not beyond_rounding(usual, worst.max().item(), rounding(model) * spread, spread),
        apart=usual / spread,
    )
    if key != "bloom-560m":  # the others have no bias to fix a score by
        return
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS
    from transformers.masking_utils import eager_mask

    lower_first_head(model)
    finite = {}
    for name, mask in (("with", MASKS["eager"]), ("without", eager_mask)):
        MASKS.register("eager", mask)
        finite[name] = bool(logits(model, tokenizer, prompts[:24:6])[0].isfinite().all())
    said_of = ", ".join(f"{'finite' if fine else 'NaN'} {name} the guard" for name, fine in finite.items())
    bench.note(f"one head's scores at {LOW:.0f}", said_of, ok=finite == {"with": True, "without": False})


def logits(model: Any, tokenizer: Any, texts: list[str]) -> tuple[Any, Any]:
    """At the texts' own tokens, in one left-padded batch and one by one: each (tokens, vocabulary), fp32."""
    import torch

    ids = [tokenizer(text)["input_ids"] for text in texts]
    width, device = max(map(len, ids)), model.device
    rows = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    with torch.no_grad():  # evaluation's `inference` would put the guard back
        # As `generate` does it: a token's place is counted from the first real one. (BLOOM takes no places.)
        places = {} if model.config.model_type == "bloom" else {"position_ids": (mask.cumsum(1) - 1).clamp(0)}
        batch = model(input_ids=rows, attention_mask=mask, use_cache=False, **places).logits[mask.bool()]
        alone = [model(torch.tensor([row], device=device), use_cache=False).logits[0] for row in ids]
    return batch.float().cpu(), torch.cat(alone).float().cpu()


def lower_first_head(model: Any) -> None:
    """Every raw score of BLOOM's first heads becomes LOW: the bias fixes one number of query and key."""
    import torch

    with torch.no_grad():
        for layer in model.transformer.h:
            attention = layer.self_attention
            made, width = attention.query_key_value, attention.head_dim
            size = (-LOW / attention.inv_norm_factor) ** 0.5
            made.weight[:width], made.bias[:width] = 0, 0
            made.bias[width - 1] = size
            made.weight[2 * width - 1], made.bias[2 * width - 1] = 0, -size


def steps(
    bench: Bench, what: str, key: str, *, batch: int, length: int, accumulation: int = 1, r: int = 16,
    alpha: int = 32, dropout: float = 0.0, targets: Any = "all", checkpointing: bool = True,
    loss: str = "chunked_nll", optim: str = "adamw_torch", tags: bool = False, merge: str = "",
    folder: str = "", backend: str = "transformers",
    **choices: Any,
) -> None:  # fmt: skip
    """Some training steps as the lesson takes them, their peak beside the plan, and then perhaps the merge.

    Args:
        batch, length, accumulation: rows in a pass, tokens in a row, passes in a step.
        r, alpha, dropout, targets: of LoRA. tags: with rows for tools.TAGS.
        merge: name of the folder to merge into.
        folder: name of a merged folder to train, in 16 bits, in place of the random model (lesson 04's lab).
        backend, choices: for the runtime. Unsloth may take less than the plan, which is plain peft's.
    """
    from lessonlib import lora, tools, training
    from lessonlib.training._memory import plan

    floor = bench.allocated()
    rt = bench.runtime(key, backend=backend, **choices)
    base, tokenizer = merged_model(bench, folder, rt) if folder else bench.load(key, rt)
    new = lora.add_tokens(base, tokenizer, tools.TAGS) if tags and not folder else None
    if tags and folder:
        new = tokenizer.convert_tokens_to_ids(list(tools.TAGS))
    config = lora.lora_config(base, r=r, alpha=alpha, dropout=dropout, targets=targets, new_tokens=new)
    length, optim = (48, "adamw_torch") if bench.small else (length, optim)
    planned = plan(
        base, lora=config, batch_size=batch, length=length, dtype=rt.dtype, checkpointing=checkpointing,
        loss="full" if loss == "nll" else "chunked", optim=optim,
    ).set_index("part")["gib"]  # fmt: skip
    # torch does not count what bitsandbytes puts into CUDA's unified memory.
    expected = planned["total"] - (planned["optimiser"] if optim.startswith("paged") else 0)
    watch = stop_watch(bench)
    made = training.trainer(
        lora.attach(base, config, rt), tokenizer, rows(tokenizer, bench.steps * batch * accumulation, length),
        callbacks=[watch],
        config=training.sft_config(
            rt, what, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
            max_steps=bench.steps, gradient_checkpointing=checkpointing, loss_type=loss, optim=optim,
            learning_rate=2e-4, save_strategy="no", logging_steps=1, disable_tqdm=True,
        ),
    )  # fmt: skip
    bench.restart()
    training.fit(made)
    peak, a_step = bench.allocated(peak=True) - floor, watch.seconds()
    losses = training.history(made)["loss"]
    speed = batch * accumulation * length / a_step
    said, fine = verdict(peak, expected, at_most=backend == "unsloth")
    if len(losses) != bench.steps or not losses.map(math.isfinite).all():
        said, fine = f"{said}, A LOSS IS NO NUMBER", False
    bench.note(
        f"{what}: {bench.steps} steps", f"{a_step:.2f} s a step, {speed:.0f} tokens/s; {said}", ok=fine,
        peak=peak, plan=expected, speed=speed,
    )  # fmt: skip
    if folder:
        lab_answers(bench, made.model, tokenizer)
    model = made.model
    del made, base, watch
    if merge:
        merge_and_free(bench, model, tokenizer, merge)
    del model
    without = bench.allocated() - floor
    bench.free()
    left = bench.allocated() - floor
    said = f"{without:.2f} GiB stay, {left:.2f} after gc.collect()"
    bench.note(f"{what}: dropped", said, ok=left < LEFT, left=left)


def verdict(peak: float, plan: float, *, at_most: bool = False) -> tuple[str, bool]:
    """(peak and plan in words, whether they agree); a peak of 0 was not measured."""
    if not peak:
        return f"plan {plan:.2f} GiB, peak not measured", True
    fine = (at_most or peak / plan >= 1 - CLOSE) and peak / plan <= 1 + CLOSE
    return f"peak {peak:.2f} GiB, plan {plan:.2f}, ratio {peak / plan:.3f}", fine


def rows(tokenizer: Any, count: int, length: int) -> Any:
    """Encoded rows of random tokens that end; every second one token shorter, so that batches are padded."""
    import torch
    from datasets import Dataset

    draw = torch.Generator().manual_seed(0)
    ids = [
        [*torch.randint(10, len(tokenizer) - 10, (length - 1 - row % 2,), generator=draw).tolist(),
         tokenizer.eos_token_id]
        for row in range(count)
    ]  # fmt: skip
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def stop_watch(bench: Bench) -> Any:
    """A Trainer callback: seconds of a step, without the first WARM."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        marks: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not bench.small:
                import torch

                torch.cuda.synchronize()
            self.marks = [*self.marks, time.perf_counter()]

        def seconds(self) -> float:
            first = min(WARM, len(self.marks) - 1) - 1
            return (self.marks[-1] - self.marks[first]) / (len(self.marks) - 1 - first)

    return Watch()


def merge_and_free(bench: Bench, model: Any, tokenizer: Any, folder: str) -> None:
    """The merge of a lesson, and its peak; everything that it made is dropped."""
    from lessonlib import export

    bench.restart()
    started = time.perf_counter()
    export.merge(model, tokenizer, bench.folder / folder)
    peak, seconds = bench.allocated(peak=True), time.perf_counter() - started
    bench.note("merge", f"{seconds:.1f} s, {bench.of_cap(peak)}", ok=True, peak=peak)


def merged_model(bench: Bench, folder: str, rt: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = bench.folder / folder
    model = AutoModelForCausalLM.from_pretrained(place, dtype=rt.torch_dtype, attn_implementation="eager")
    return model.to(rt.device), AutoTokenizer.from_pretrained(place)


def lab_answers(bench: Bench, model: Any, tokenizer: Any) -> None:
    """Lesson 04's lab asks 24 prompts, eight at once, of the model that has just learnt."""
    from lessonlib.evaluation._answers import continuations

    prompts = ["Công cụ: " + "get_time, convert, get_order. " * (4 + row % 12) + "Gọi:" for row in range(24)]
    bench.restart()
    found = continuations(model, tokenizer, prompts, max_new_tokens=4 if bench.small else 96, batch_size=8)
    peak = bench.allocated(peak=True)
    bench.note("lab: answers", f"{len(found)}, {bench.of_cap(peak)}", ok=True, peak=peak)


# --- the parts: what the lessons do on a T4


def lesson01(bench: Bench) -> None:
    key = "bloom-560m"
    with bench.attempt("answers"):
        answers(bench, key)
    with bench.attempt("the article's steps"):
        steps(bench, "article", key, batch=2, length=512, accumulation=8, r=8, alpha=32, dropout=0.05,
              targets=["query_key_value"], loss="nll")  # fmt: skip
    with bench.attempt("the mended steps"):
        steps(bench, "mended", key, batch=8, length=64, dropout=0.05, checkpointing=False, loss="nll",
              merge="merged-01")  # fmt: skip


def lesson02(bench: Bench) -> None:
    key = "phi-3-mini"
    shape: dict[str, Any] = {"batch": 2, "length": 1024, "accumulation": 4, "dropout": 0.05}
    with bench.attempt("answers"):
        answers(bench, key, quantisation="none")
    with bench.attempt("LoRA steps"):
        steps(bench, "LoRA", key, **shape, quantisation="none")
    with bench.attempt("QLoRA steps"):
        steps(bench, "QLoRA", key, **shape, optim="paged_adamw_8bit", merge="merged-02")


def lesson04(bench: Bench) -> None:
    key = "gemma-2-2b"
    shape: dict[str, Any] = {"batch": 1, "length": 1024, "accumulation": 4, "alpha": 64, "tags": True,
                             "optim": "paged_adamw_8bit"}  # fmt: skip
    with bench.attempt("answers"):
        answers(bench, key)
    with bench.attempt("steps"):
        steps(bench, "tool calls", key, **shape, dropout=0.05, merge="merged-04")
    with bench.attempt("lab"):
        steps(bench, "lab", key, **shape, folder="merged-04", quantisation="none")


def lesson03(bench: Bench, backend: str = "transformers") -> None:
    with bench.attempt("steps"):
        steps(bench, backend, "llama-3.2-3b", batch=2, length=2048, accumulation=4, alpha=16,
              optim="adamw_8bit", loss="nll" if backend == "unsloth" else "chunked_nll",
              backend=backend)  # fmt: skip


PARTS: dict[str, Callable[[Bench], None]] = {
    "01": lesson01,
    "02": lesson02,
    "04": lesson04,
    "03": lesson03,
    "03-unsloth": lambda bench: lesson03(bench, "unsloth"),
}


# --- the command


def run(part: str, folder: Path, chosen: argparse.Namespace, seconds: float) -> list[Row]:
    """One part in a process of its own; whatever becomes of it, the rows that it wrote."""
    command = [sys.executable, "-W", "ignore", __file__, "--part", part, "--folder", str(folder)]
    command += ["--cap", str(chosen.cap), "--steps", str(chosen.steps), *["--small"] * chosen.small]
    settings = {"HF_HUB_OFFLINE": "1", "LESSONLIB_HEADLESS": "1", "LESSONLIB_LANG": "en"}
    problem = ""
    try:
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=seconds
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
            problem = f"FAILED, ended with {done.returncode}: {' | '.join(last)[:600]}"
    except subprocess.TimeoutExpired:
        problem = f"FAILED, cut off after {seconds:.0f} s"
    written = folder / f"{part}.jsonl"
    found = [json.loads(line) for line in written.read_text("utf-8").splitlines()] if written.exists() else []
    return found + ([{"part": part, "what": "the part", "said": problem, "ok": False}] if problem else [])


def beside(found: list[Row]) -> list[Row]:
    """Unsloth beside plain: speed and peak."""
    by_part = {row["part"]: row for row in found if "speed" in row}
    if not {"03", "03-unsloth"} <= set(by_part):
        return []
    plain, unsloth = by_part["03"], by_part["03-unsloth"]
    said = f"{unsloth['speed'] / plain['speed']:.2f} x the speed"
    if plain["peak"]:
        said += f", {unsloth['peak'] / plain['peak']:.2f} x the peak"
    return [{"part": "03", "what": "Unsloth beside plain", "said": said, "ok": True}]


def table(found: list[Row]) -> str:
    return "\n".join(
        f"{row['part']:<11}{row['what']:<41}{'ok' if row['ok'] else 'NOT':<5}{row['said']}" for row in found
    )


def about(chosen: argparse.Namespace) -> Row:
    """What it ran on."""
    import torch
    import transformers

    told: Row = {"torch": torch.__version__, "transformers": transformers.__version__, "small": chosen.small,
                 "cap_gib": chosen.cap, "steps": chosen.steps}  # fmt: skip
    if not chosen.small:
        facts = torch.cuda.get_device_properties(0)
        told |= {"card": facts.name, "memory_gib": facts.total_memory / GIB}
        told |= {"capability": f"{facts.major}.{facts.minor}, said to be 7.5"}
    return told


def refused(chosen: argparse.Namespace) -> str:
    """Why this cannot run here, in a line; empty where it can."""
    if chosen.steps < 2:
        return "It takes at least 2 --steps: the time of the first is not counted."
    if chosen.small:
        return ""
    import torch

    if torch.cuda.is_available():
        return ""
    return (
        f"No CUDA GPU here: on one, this would run the parts {', '.join(chosen.parts)} at real size with "
        f"random weights under {chosen.cap} GiB, and print peaks beside plans. On a CPU: --small."
    )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--small", action="store_true", help="a rehearsal on the CPU")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--steps", type=int, default=8, help="training steps to take")
    options.add_argument("--cap", type=float, default=14.2, help="GiB that torch may use; a T4 leaves 14.2")
    options.add_argument("--minutes", type=float, default=8.0, help="parts that come later are left out")
    options.add_argument("--out", type=Path, default=Path("gpu.json"))
    options.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.part:
        bench = Bench(chosen.part, chosen.folder, small=chosen.small, cap=chosen.cap, steps=chosen.steps)
        PARTS[chosen.part](bench)
        return 0
    if reason := refused(chosen):
        print(reason)
        return 2
    started = time.monotonic()
    found: list[Row] = []
    told = about(chosen)
    print(json.dumps(told), flush=True)
    with tempfile.TemporaryDirectory() as place:
        for part in chosen.parts:
            left = 60 * chosen.minutes - (time.monotonic() - started)
            if part == "03-unsloth" and not importlib.util.find_spec("unsloth"):
                new = [{"part": part, "what": "the part", "said": "not run: no Unsloth here", "ok": False}]
            elif left < 1:
                new = [{"part": part, "what": "the part", "said": "not run: out of time", "ok": False}]
            else:
                new = run(part, Path(place), chosen, left)
            if part == chosen.parts[-1]:
                new += beside(found + new)
            found += new
            print(table(new), flush=True)
            seconds = time.monotonic() - started
            written = json.dumps({**told, "seconds": seconds, "rows": found}, indent=2)
            chosen.out.write_text(written + "\n", encoding="utf-8")
    print(f"\n{seconds:.0f} s; the same in {chosen.out}")
    return 0 if all(row["ok"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
