"""What `lessonlib.memory.plan` says, beside what CUDA really allocates, on the real BLOOM-560m shape.

Random weights of the real size (no download) in fp16, LoRA r 8 on query_key_value, fp32 adapters, fp16
autocast with a gradient scaler, in plain torch, under a cap of a T4's 14.7 GiB. With and without gradient
checkpointing. Compared is `torch.cuda.max_memory_allocated`, which leaves out the CUDA context and the
allocator's reserve, as the plan does.

    python benchmarks/memory_gpu.py [--batch 8] [--length 128] [--steps 3] [--cap 14.7]

Needs torch, transformers, peft, accelerate, pandas and a CUDA device; where there is none it says so, prints
the plan alone and exits with 1.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a clone, without installing

from lessonlib import language, lora, memory, models

if TYPE_CHECKING:
    import pandas as pd

PARTS = ["weights", "adapters", "gradients", "optimiser", "activations", "logits"]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--batch", type=int, default=8, help="rows in one step")
    options.add_argument("--length", type=int, default=128, help="tokens in a row")
    options.add_argument("--steps", type=int, default=3, help="training steps to take")
    options.add_argument("--cap", type=float, default=14.7, help="GiB that torch may use; a T4 has 14.7")
    chosen = options.parse_args()
    language.use("en")
    warnings.filterwarnings("ignore", message="LoRA will not reach")  # one target is what the lesson uses

    import torch

    if not torch.cuda.is_available():
        print("This benchmark needs a CUDA GPU, and torch sees none here. The plan alone:")
        for checkpointing in (False, True):
            show_plan(planned(chosen, checkpointing), chosen, checkpointing)
        return 1
    properties = torch.cuda.get_device_properties(0)
    whole = properties.total_memory / memory.GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, chosen.cap / whole))
    cap = min(chosen.cap, whole)
    print(f"{properties.name}, {whole:.1f} GiB, capped at {cap:.1f} GiB; torch {torch.__version__}")
    for checkpointing in (False, True):
        plan = planned(chosen, checkpointing)
        show_plan(plan, chosen, checkpointing)
        try:
            before, peak, seconds = measured(chosen, checkpointing)
        except torch.cuda.OutOfMemoryError as error:
            print(f"  measured: out of memory under the cap ({str(error).splitlines()[0][:90]})")
            continue
        for what, parts, found in (
            ("weights and adapters", ["weights", "adapters"], before), ("peak of a step", PARTS, peak)
        ):
            plans = gib(plan, parts)
            print(f"  {what}: plan {plans:.3f} GiB, measured {found:.3f}, ratio {found / plans:.3f}")
        print(f"  {seconds:.2f} s a step")
    return 0


def planned(chosen: argparse.Namespace, checkpointing: bool) -> "pd.DataFrame":
    base = models.skeleton("bloom-560m")
    config = lora.lora_config(base, r=8, targets=["query_key_value"])
    return memory.plan(
        base, lora=config, batch_size=chosen.batch, length=chosen.length, checkpointing=checkpointing
    )


def gib(plan: "pd.DataFrame", parts: list[str]) -> float:
    return float(plan.loc[plan["part"].isin(parts), "gib"].sum())


def show_plan(plan: "pd.DataFrame", chosen: argparse.Namespace, checkpointing: bool) -> None:
    with_or_without = "with" if checkpointing else "without"
    print(f"\nbatch {chosen.batch} x {chosen.length} tokens, {with_or_without} gradient checkpointing")
    print("  plan, GiB: " + ", ".join(f"{part} {gib(plan, [part]):.3f}" for part in PARTS))
    print(f"  {memory.verdict(plan, chosen.cap)}")


def measured(chosen: argparse.Namespace, checkpointing: bool) -> tuple[float, float, float]:
    """(GiB after building the model, GiB at the peak, seconds a step)."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    configuration = models.config("bloom-560m")
    configuration.use_cache = False
    torch.cuda.empty_cache()
    floor = torch.cuda.memory_allocated()  # cuBLAS workspaces of an earlier run
    with torch.device("cuda"):
        base = AutoModelForCausalLM.from_config(configuration, dtype=torch.float16)
    model = peft.get_peft_model(base, lora.lora_config(base, r=8, targets=["query_key_value"])).train()
    if checkpointing:
        # Frozen embeddings give the first block an input without gradient, and then nothing is recomputed.
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kinds = {parameter.dtype for parameter in trained}
    if kinds != {torch.float32}:
        raise SystemExit(f"The adapters are {kinds}; the plan is for fp32 adapters.")
    optimiser = torch.optim.AdamW(trained, lr=2e-4)
    scaler = torch.amp.GradScaler("cuda")
    ids = torch.randint(4, configuration.vocab_size, (chosen.batch, chosen.length), device="cuda")
    before = torch.cuda.memory_allocated() - floor
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(chosen.steps):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(input_ids=ids, labels=ids).loss  # the logits are not held on to
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / chosen.steps
    peak = torch.cuda.max_memory_allocated() - floor
    if not torch.isfinite(loss):
        print("  note: the loss was not finite (random weights in fp16); memory does not depend on it")
    del model, base, optimiser, scaler, trained, loss, ids
    torch.cuda.empty_cache()
    return before / memory.GIB, peak / memory.GIB, seconds


if __name__ == "__main__":
    sys.exit(main())
