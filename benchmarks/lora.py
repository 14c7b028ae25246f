"""LoRA by hand (`lessonlib.lora.layers.Linear`) against peft's and loralib's: time of one linear layer.

    python benchmarks/lora.py [--tokens 64] [--r 16] [--rounds 11] [--device cpu] [--dtype float32]

Two shapes of Phi-3-mini and two of its twin. All layers share one frozen W, have the same A and B, and give
the same output, which is checked. Each round measures every layer once, one after the other, so that a
machine that gets slower meanwhile slows them all; a ratio is the median over rounds of that within a round.
README.md here says how to read it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a clone, without installing

# in, out, and how many times the tokens of --tokens: with few, the twin's shapes would measure overhead only
SHAPES = {
    "Phi-3-mini qkv_proj": (3072, 9216, 1),
    "Phi-3-mini down_proj": (8192, 3072, 1),
    "twin qkv_proj": (128, 384, 8),
    "twin gate_up_proj": (128, 768, 8),
}
ALPHA = 32
SHORTEST = 0.01  # seconds that one measurement takes at least, by repeating


def layers_of(sizes: tuple[int, int], r: int, device: str, dtype: Any) -> dict[str, Any]:
    """The frozen nn.Linear and the three layers with LoRA around its weight, A and B alike."""
    import loralib
    import peft
    import torch
    from torch import nn

    from lessonlib.lora import layers

    torch.manual_seed(0)
    plain = nn.Linear(*sizes, bias=False, device=device, dtype=dtype).requires_grad_(False)
    ours = layers.Linear.from_layer(plain, r=r, lora_alpha=ALPHA)
    nn.init.normal_(ours.lora_B, std=0.01)
    config = peft.LoraConfig(r=r, lora_alpha=ALPHA, target_modules=["0"])
    model: Any = peft.get_peft_model(nn.Sequential(plain), config)
    theirs = model.get_base_model()[0]
    # loralib's constructor would make a W of its own; on the meta device that costs nothing.
    lib = loralib.Linear(*sizes, r=r, lora_alpha=ALPHA, bias=False, device="meta")
    lib.weight = plain.weight
    lib.lora_A = nn.Parameter(ours.lora_A.detach().to(dtype).clone())
    lib.lora_B = nn.Parameter(ours.lora_B.detach().to(dtype).clone())
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(ours.lora_A)
        theirs.lora_B["default"].weight.copy_(ours.lora_B)
    return {"nn.Linear": plain, "ours": ours, "peft": theirs, "loralib": lib}


def timer(device: str) -> Callable[[Callable[[], Any], int], float]:
    """Seconds that `repeats` calls take: CPU seconds of this process, or by the clock until CUDA is done."""
    import torch

    def measure(call: Callable[[], Any], repeats: int) -> float:
        if device == "cpu":
            began = time.process_time()
            for _ in range(repeats):
                call()
            return time.process_time() - began
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    return measure


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call in each round, in a different order every round."""
    measure = timer(device)
    repeats = {}
    for name, call in calls.items():
        call()
        call()  # warm: the first calls allocate
        repeats[name] = max(1, round(SHORTEST / max(measure(call, 2) / 2, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(measure(calls[name], repeats[name]) / repeats[name])
    return seconds


def training(layers: dict[str, Any], x: Any) -> dict[str, Callable[[], Any]]:
    """Forward and backward, with a gradient for x as a layer inside a model has it."""
    import torch

    x = x.clone().requires_grad_(True)
    gradient = torch.randn_like(layers["nn.Linear"](x))

    def call(layer: Any) -> None:
        layer(x).backward(gradient)
        x.grad = None
        for parameter in layer.parameters():
            parameter.grad = None

    return {name: lambda layer=layer: call(layer) for name, layer in layers.items()}  # type: ignore[misc]


def inference(layers: dict[str, Any], x: Any) -> dict[str, Callable[[], Any]]:
    """Forward alone, without gradients; call it with layers merged or not."""
    import torch

    def call(layer: Any) -> None:
        with torch.no_grad():
            layer(x)

    return {name: lambda layer=layer: call(layer) for name, layer in layers.items()}  # type: ignore[misc]


def shown(seconds: dict[str, list[float]], beside: str) -> None:
    """A line for each layer: milliseconds, and the ratio to the one named."""
    for name, times in seconds.items():
        ratios = [one / other for one, other in zip(times, seconds[beside], strict=True)]
        print(f"    {name:<16}{statistics.median(times) * 1e3:>10.3f} ms{statistics.median(ratios):>8.2f} x")


def run(chosen: argparse.Namespace) -> None:
    """Measure and print, shape by shape."""
    import torch

    dtype, device = getattr(torch, chosen.dtype), chosen.device
    tolerance = 50 * torch.finfo(dtype).eps
    for name, (wide, out, times) in SHAPES.items():
        layers = layers_of((wide, out), chosen.r, device, dtype)
        x = torch.randn(times * chosen.tokens, wide, device=device, dtype=dtype)
        y = layers["ours"](x)
        print(f"{name}: {wide} -> {out}, {len(x)} tokens, r {chosen.r}, {chosen.dtype} on {device}")
        for other in ("peft", "loralib"):
            torch.testing.assert_close(layers[other](x), y, rtol=tolerance, atol=tolerance)
        print("  forward and backward, against ours")
        shown(interleaved(training(layers, x), chosen.rounds, device), "ours")

        merged = layers_of((wide, out), chosen.r, device, dtype)["ours"]
        merged.merge()
        torch.testing.assert_close(merged(x), y, rtol=4 * tolerance, atol=4 * tolerance)
        calls = {"nn.Linear": layers["nn.Linear"], "ours": layers["ours"], "ours, merged": merged}
        calls |= {"peft": layers["peft"], "loralib": layers["loralib"]}
        print("  forward alone, against ours merged")
        shown(interleaved(inference(calls, x), chosen.rounds, device), "ours, merged")


def main() -> int:
    """Read the options and run; 1 where the device is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64, help="tokens in a call; for the twin 8 times that")
    parser.add_argument("--r", type=int, default=16, help="the rank")
    parser.add_argument("--rounds", type=int, default=11, help="measurements of each layer")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="of W and x: float32, float16 or bfloat16")
    chosen = parser.parse_args()

    import torch

    if chosen.device != "cpu" and not torch.cuda.is_available():
        print(f"torch sees no {chosen.device} device here.")
        return 1
    torch.set_num_threads(1)  # CPU seconds of one thread, which other work on the machine hardly changes
    run(chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
