"""Llama 3.2 as lesson 03 trains it: plain transformers + peft + trl beside Unsloth, speed and memory.

    python benchmarks/llama.py [--runs plain/dynamic unsloth/dynamic] [--rounds 2] [--steps 15]
    python benchmarks/llama.py --gpu [--runs plain/packing unsloth/packing] [--rounds 2] [--steps 60]
        [--cap 14.7]

Same model, rows, order, seed and steps in every run; each run in a process of its own, because Unsloth
changes trl in the whole process and peak memory is a number of a process. The runs take turns. On the CPU the
model is the twin. With --gpu it is the real architecture with random weights in 4 bits, under a cap of a T4's
memory. First comes a table of how much of what is computed is content. README.md here says how to read it.

Ends with 1 where a claim fails or the runs did not do the same work, and with 2 where it cannot run.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# This process imports no torch on a CPU: on Linux a child's peak memory starts with its parent's.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import llama_parts as parts

MOST_WASTE = 0.05
# The stored output of Unsloth's own notebook for Llama 3.2 3B: 60 steps of 2 x 4 rows of at most 2048 tokens.
# What it calls GB are 2**30 bytes. How many tokens its rows had it does not say.
THEIRS = {"card": "Tesla T4", "steps": 60, "reserved": 6.531, "seconds": 446.5}
Results = dict[str, list[dict[str, Any]]]  # run -> what llama_parts.measured gave in each round


def shown_shares(table: dict[str, dict[str, float]]) -> str:
    """The table of content shares."""
    length = parts.LESSON["length"]
    names = {
        "padded": f"padded to {length}",
        "dynamic": "padded to the longest of the batch",
        "grouped": "the same, rows of like length",
        "packing": "packed (bfd)",
        "filled": f"  how full packs of {length} are",
    }
    columns = table.values()
    lines = [
        f"{'computed tokens that are content':<36}" + "".join(f"{name:>22}" for name in table),
        f"{'rows':<36}" + "".join(f"{it['rows']:>22.0f}" for it in columns),
        f"{'tokens a row':<36}" + "".join(f"{it['tokens'] / it['rows']:>22.1f}" for it in columns),
    ]
    lines += [f"{it:<36}" + "".join(f"{col[key]:>22.1%}" for col in columns) for key, it in names.items()]
    return "\n".join(lines)


def report(results: Results, gpu: bool) -> tuple[str, bool]:
    """(medians over the rounds with ratios to the first run, whether all did the same work)."""
    first = next(iter(results))
    names = [name for name in results[first][0] if name not in ("computed", "content", "losses")]
    lines = [f"{'median of rounds':<40}" + "".join(f"{run:>26}" for run in results)]
    for name in names:
        beside = statistics.median(one[name] for one in results[first])
        line = f"{name.format(second='second' if gpu else 'CPU second'):<40}"
        for run, rounds in results.items():
            middle = statistics.median(one[name] for one in rounds)
            ratio = "" if run == first else f"{middle / beside:.3f} x"
            line += f"{middle:>14.{3 if 'GiB' in name else 1}f}{ratio:>12}"
        lines.append(line)
    speeds = {run: [one[parts.SPEED] for one in rounds] for run, rounds in results.items()}
    spread = ", ".join(f"{run} {min(them):.0f} to {max(them):.0f}" for run, them in speeds.items())
    share = ", ".join(f"{run} {it[0]['content'] / it[0]['computed']:.1%}" for run, it in results.items())
    lines += ["", f"Speeds of the rounds: {spread}.", f"Content of what was computed: {share}."]
    same = True
    for batching in dict.fromkeys(run.split("/")[1] for run in results):
        said, alike = compared(batching, [one for run in results if run.endswith(f"/{batching}")
                                          for one in results[run]])  # fmt: skip
        lines.append(said)
        same &= alike
    return "\n".join(lines), same


def compared(batching: str, runs: list[dict[str, Any]]) -> tuple[str, bool]:
    """(a line on losses and tokens of runs with the same batches, whether these were the same)."""
    losses = [one["losses"] for one in runs]
    if not all(math.isfinite(loss) for one in losses for loss in one):
        return f"{batching}: A LOSS IS NOT FINITE.", False
    if len(tokens := {one["content"] for one in runs}) > 1:
        return f"{batching}: NOT THE SAME WORK, content tokens {sorted(tokens)}.", False
    apart = max(max(step) - min(step) for step in zip(*losses, strict=True))
    return (
        f"{batching}: {tokens.pop()} content tokens in each run; loss {losses[0][0]:.3f} at first, "
        f"{losses[0][-1]:.3f} at last, in no step more than {apart:.1e} apart."
    ), True


def against_theirs(results: Results, card: str, steps: int) -> tuple[str, bool]:
    """(each run beside Unsloth's own output, whether the lesson's setting takes no more memory).

    Packs are full rows of 2048 tokens, the most that the lesson's setting can meet: Unsloth with packing is
    judged. Where that is not among the runs, all of them are.
    """
    lines = [
        f"Unsloth's own notebook on a {THEIRS['card']}: peak reserved {THEIRS['reserved']} GiB, "
        f"{THEIRS['seconds']} s for {THEIRS['steps']} steps, tokens a step not known."
    ]
    peaks = {}
    for run, rounds in results.items():
        peaks[run] = statistics.median(one[parts.RESERVED] for one in rounds)
        seconds = statistics.median(one[parts.SECONDS] for one in rounds)
        lines.append(
            f"{run} on this {card}: {peaks[run]:.3f} GiB ({peaks[run] / THEIRS['reserved']:.2f} x), "
            f"{seconds:.1f} s for {steps} steps of {rounds[0]['computed'] / steps:.0f} tokens."
        )
    if "T4" not in card:
        lines.append(f"A {card} is no T4: the seconds say nothing about one, only their ratios do something.")
    judged = [peaks["unsloth/packing"]] if "unsloth/packing" in peaks else list(peaks.values())
    no_more = max(judged) <= THEIRS["reserved"]
    lines.append(f"The lesson's setting takes {'no more' if no_more else 'MORE'} memory than theirs.")
    return "\n".join(lines), no_more


class Failed(Exception):
    """A part ended with an error, which has been printed."""


def part(*arguments: str, gpu: bool) -> Any:
    """One part in a process of its own; on a CPU on one thread, whose CPU seconds others hardly change."""
    settings = {"HF_HUB_OFFLINE": "1", "LESSONLIB_HEADLESS": "1", "LESSONLIB_LANG": "en"}
    if not gpu:
        settings["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-W", "ignore", __file__, *arguments, *(["--gpu"] if gpu else [])]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}".strip()
        print(f"{' '.join(arguments)} ended with {done.returncode}:\n{said}")
        raise Failed
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))


def rounds(chosen: argparse.Namespace, folder: str) -> Results:
    """Every run once a round, in the opposite order every second round."""
    results: Results = {run: [] for run in chosen.runs}
    for turn in range(chosen.rounds):
        for run in chosen.runs[:: -1 if turn % 2 else 1]:
            arguments = ["--part", run, "--steps", str(chosen.steps), "--folder", folder]
            results[run].append(part(*arguments, "--cap", str(chosen.cap), gpu=chosen.gpu))
    return results


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="the real size, on a CUDA device")
    parser.add_argument("--runs", nargs="+", choices=parts.RUNS, help="ratios are to the first")
    parser.add_argument("--rounds", type=int, default=2, help="how often each run is measured")
    parser.add_argument("--steps", type=int, help="optimiser steps: 60 on a GPU, else 15")
    parser.add_argument("--cap", type=float, default=14.7, help="GiB that torch may use; a T4 has 14.7")
    parser.add_argument("--part", choices=["shares", "build", *parts.RUNS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    return parser


def refused(chosen: argparse.Namespace) -> str:
    """Why this cannot run here, in a line; empty where it can."""
    if chosen.steps <= parts.WARM_UP or chosen.rounds < 1:
        return f"It takes more than {parts.WARM_UP} --steps, the first being warm-up, and 1 of --rounds."
    if not chosen.gpu:
        packed = "unsloth/packing" in chosen.runs
        return "On a CPU Unsloth switches packing off: leave unsloth/packing out." if packed else ""
    import torch

    if torch.cuda.is_available():
        return ""
    return (
        "No CUDA GPU here: on one, this would train the real-size Llama 3.2 3B (random weights, nf4, fp16) "
        f"under {chosen.cap} GiB, {chosen.steps} steps of 2 x 4 at {parts.LESSON['length']} tokens, as "
        f"{' and '.join(chosen.runs)} in {chosen.rounds} rounds, and print speed and memory beside "
        f"Unsloth's own {THEIRS['reserved']} GiB and {THEIRS['seconds']} s on a T4."
    )


def compare(chosen: argparse.Namespace) -> int:
    """Everything in turn; 0 where the claims hold."""
    table = part("--part", "shares", gpu=False)
    print(shown_shares(table), "\n")
    card = ""
    if chosen.gpu:
        import torch

        facts = torch.cuda.get_device_properties(0)
        card, whole = facts.name, facts.total_memory / parts.GIB
        print(
            f"{card}, {whole:.2f} GiB, CUDA {facts.major}.{facts.minor}, capped at "
            f"{min(chosen.cap, whole):.2f} GiB; random weights, nf4, fp16, activations recomputed."
        )
    steps = f"{chosen.steps} steps of 2 x 4, {parts.WARM_UP} of them warm-up"
    print(f"{steps}; {chosen.rounds} rounds.\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.gpu:
            part("--part", "build", "--folder", folder, gpu=True)
        results = rounds(chosen, folder)
    said, fine = report(results, chosen.gpu)
    print(said)
    # Of the grouped and packed runs, too, if there are any: what reached the model, not what should have.
    ran = [one for run in results if run.endswith(("/grouped", "/packing")) for one in results[run]]
    waste = 1 - min(table["together"]["grouped"], *(one["content"] / one["computed"] for one in ran), 1)
    fine &= waste < MOST_WASTE
    claim = f"at most {MOST_WASTE:.0%} may be."
    ours = "the lesson's setting (rows of like length)"
    print(f"\nOf the tokens that {ours} computes {waste:.1%} are waste; {claim}")
    if chosen.gpu:
        said, no_more = against_theirs(results, card, chosen.steps)
        print(f"\n{said}")
        fine &= no_more
    return 0 if fine else 1


def main() -> int:
    """Run all parts and print; with --part, one part as JSON."""
    chosen = options().parse_args()
    batching = "packing" if chosen.gpu else "dynamic"  # Unsloth does not pack on a CPU
    chosen.runs = chosen.runs or [f"{backend}/{batching}" for backend in parts.BACKENDS]
    chosen.steps = chosen.steps or (60 if chosen.gpu else 15)
    if chosen.part == "shares":
        print(json.dumps(parts.table_of_shares()))
    elif chosen.part == "build":
        print(json.dumps(parts.build(chosen.folder)))
    elif chosen.part:
        options_of_run = {"gpu": chosen.gpu, "cap": chosen.cap, "folder": chosen.folder}
        print(json.dumps(parts.train(chosen.part, chosen.steps, **options_of_run)))
    elif reason := refused(chosen):
        print(reason)
        return 2
    else:
        try:
            return compare(chosen)
        except Failed:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
