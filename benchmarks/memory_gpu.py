"""What `lessonlib.training.memory_plan` says, beside what CUDA really allocates, at real size.

For each family a model with random weights (no download), LoRA r 16 on all linear layers, once over fp16 and
once over nf4 weights, with and without gradient checkpointing: a few steps in plain torch with fp32 adapters,
fp16 autocast, a gradient scaler and AdamW, under a cap of a T4's 14.7 GiB. Compared is
`torch.cuda.max_memory_allocated`, which leaves out the CUDA context and the allocator's reserve, as the plan
does.

    python benchmarks/memory_gpu.py [--families phi-3-mini ...] [--batch 1] [--length 768] [--steps 2]
        [--cap 14.7]

Ends with 1 where a peak is off by more than 10%, or a model that should fit does not. Needs torch,
transformers, peft, accelerate, bitsandbytes, pandas and a CUDA device; without one it says what it would do,
and ends with 1.
"""

import argparse
import contextlib
import gc
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a clone, without installing

from lessonlib import lora
from lessonlib.models import _loading as models
from lessonlib.models._quantisation import quantised_linears
from lessonlib.runtime import _language as language
from lessonlib.training import _memory as memory

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 0.10
RANK = 16
# Gemma-2-2b is not in the catalogue yet; its config.json as transformers' Gemma2Config takes it.
GEMMA_2_2B = {
    "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
}


def families() -> list[str]:
    return [*models.CATALOGUE, *({"gemma-2-2b"} - set(models.CATALOGUE))]


def configuration(family: str) -> Any:
    """The real model's configuration, with the attention that the course uses on a T4."""
    from transformers import AutoConfig

    known = family in models.CATALOGUE
    config = models.config(family) if known else AutoConfig.for_model("gemma2", **GEMMA_2_2B)
    # Gemma-2's softcapping is silently left out under sdpa; BLOOM has no sdpa.
    config._attn_implementation = "eager" if config.model_type in ("gemma2", "bloom") else "sdpa"
    config.use_cache = False
    return config


def planned(family: str, quantisation: str, checkpointing: bool, batch: int, length: int) -> "pd.DataFrame":
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(configuration(family))
    return memory.plan(
        base, lora=lora.lora_config(base, r=RANK), batch_size=batch, length=length,
        checkpointing=checkpointing, quantisation=quantisation,
    )


def build(config: Any, quantisation: str, checkpointing: bool, device: str) -> Any:
    """The model with random fp16 weights, or those in nf4, and its adapters, ready to train."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    if quantisation == "nf4":
        to_4bit(base, device)
    model = peft.get_peft_model(base, lora.lora_config(base, r=RANK)).train()
    if checkpointing:
        # Frozen embeddings give the first block an input without gradient, and then nothing is recomputed.
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if kinds != {torch.float32}:
        raise SystemExit(f"The adapters are {kinds}; the plan is for fp32 adapters.")
    return model


def to_4bit(model: Any, device: str) -> None:
    """What loading with a BitsAndBytesConfig does, for weights that no checkpoint has."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    options: dict[str, Any] = {"compress_statistics": True, "quant_type": "nf4"}
    for path in list(quantised_linears(model)):
        layer: Any = model.get_submodule(path)
        with torch.device("meta"):
            new = Linear4bit(
                layer.in_features, layer.out_features, bias=False, compute_dtype=torch.float16, **options
            )
        new.bias = layer.bias
        weight: Any = Params4bit(layer.weight.data, requires_grad=False, module=new, **options)
        new.weight = weight.to(device)  # quantises
        model.set_submodule(path, new)
    model.is_loaded_in_4bit = True  # peft looks here


def train(model: Any, vocabulary: int, batch: int, length: int, steps: int, device: str) -> float:
    """Takes some steps; returns the last loss."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-4)
    scaler = torch.amp.GradScaler(device)
    ids = torch.randint(4, vocabulary, (batch, length), device=device)
    mask = torch.ones_like(ids)
    mask[0, -1] = 0  # as in a batch with padding: heads that share keys and values get copies of them
    for _ in range(steps):
        with torch.autocast(device, dtype=torch.float16):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids).loss  # the logits are not held on to
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
    return loss.item()


def measured(
    family: str, quantisation: str, checkpointing: bool, batch: int, length: int, steps: int
) -> tuple[float, float, float]:
    """(GiB after building the model, GiB at the peak, seconds a step)."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    floor = torch.cuda.memory_allocated()  # cuBLAS workspaces of an earlier case
    config = configuration(family)
    model = build(config, quantisation, checkpointing, "cuda")
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated() - floor
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    train(model, config.vocab_size, batch, length, steps, "cuda")
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / steps
    return before / memory.GIB, (torch.cuda.max_memory_allocated() - floor) / memory.GIB, seconds


def gib(plan: "pd.DataFrame", parts: list[str]) -> float:
    return float(plan.loc[plan["part"].isin(parts), "gib"].sum())


def judge(plan: float, peak: float | None, cap: float) -> tuple[str, bool]:
    """(a word on plan and peak, whether they agree); no peak means out of memory."""
    if peak is None:
        expected = plan * (1 + TOLERANCE) > cap
        return ("out of memory, as planned" if expected else "OUT OF MEMORY, though the plan fits"), expected
    close = abs(peak / plan - 1) <= TOLERANCE
    warning = "" if close else f"  OFF BY MORE THAN {TOLERANCE:.0%}"
    return f"measured {peak:.3f}, ratio {peak / plan:.3f}{warning}", close


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--families", nargs="+", choices=families(), default=families())
    options.add_argument("--batch", type=int, default=1, help="rows in one step")
    options.add_argument("--length", type=int, default=768, help="tokens in a row")
    options.add_argument("--steps", type=int, default=2, help="training steps to take")
    options.add_argument("--cap", type=float, default=14.7, help="GiB that torch may use; a T4 has 14.7")
    chosen = options.parse_args()
    language.use("en")

    import torch

    if not torch.cuda.is_available():
        print(
            f"No CUDA GPU here: on one, this would train {', '.join(chosen.families)} (LoRA over fp16 and "
            f"nf4, with and without checkpointing, batch {chosen.batch} x {chosen.length}) under "
            f"{chosen.cap} GiB, and end with 1 where plan and measured peak differ by more than "
            f"{TOLERANCE:.0%}."
        )
        return 1
    properties = torch.cuda.get_device_properties(0)
    whole = properties.total_memory / memory.GIB
    cap = min(chosen.cap, whole)
    torch.cuda.set_per_process_memory_fraction(cap / whole)
    print(f"{properties.name}, {whole:.1f} GiB, capped at {cap:.1f} GiB; torch {torch.__version__}")
    print(f"batch {chosen.batch} x {chosen.length} tokens, LoRA r {RANK} on all linear layers; GiB\n")
    agree = True
    for family, quantisation, checkpointing in itertools.product(
        chosen.families, memory.QUANTISATIONS, (False, True)
    ):
        case = (family, quantisation, checkpointing, chosen.batch, chosen.length)
        plan = planned(*case)
        before = peak = seconds = None
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            before, peak, seconds = measured(*case, chosen.steps)
        said, close = judge(gib(plan, ["total"]), peak, cap)
        agree &= close
        name = f"{family}, {'fp16' if quantisation == 'none' else quantisation}"
        print(f"{name}{', checkpointing' if checkpointing else ''}: plan {gib(plan, ['total']):.3f}, {said}")
        if before is not None:
            model = gib(plan, ["weights", "constants", "adapters"])
            print(f"    model alone: plan {model:.3f}, measured {before:.3f}; {seconds:.2f} s a step")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
