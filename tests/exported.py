"""One whole export of the Llama twin, for tests of what reads it: adapter, merged model, GGUF files.

Nothing is trained: the adapter's B matrices are drawn at random, which changes the answers as training would
and takes no time. `conftest.py` makes it once for all workers (the fixture `llama_export`).
"""

from dataclasses import dataclass
from pathlib import Path

NAME = "llama32-twin"
KINDS = ("f32", "f16", "q8_0", "q4_k_m")
EFFECT = 0.1  # standard deviation of the B matrices


@dataclass(frozen=True)
class Exported:
    """Where the parts lie, as in a lesson's export folder.

    Args:
        adapter: folder of the LoRA adapter; its base is the shipped twin.
        merged: folder of the merged model, in float32.
        gguf: kind -> file.
    """

    adapter: Path
    merged: Path
    gguf: dict[str, Path]


def tuned():
    """(model, tokenizer): the twin in float32 with an adapter that changes its answers, alike at every call.

    Its greedy answers and logits are what all the files have to give.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lessonlib.runtime._paths import twin_dir

    folder = twin_dir("llama32")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = get_peft_model(base, settings)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=EFFECT)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def exported(folder: Path) -> Exported:
    """Export the tuned twin into `folder`: `adapter/`, `merged/`, `gguf/llama32-twin-<kind>.gguf`."""
    from lessonlib.export import _gguf as gguf
    from lessonlib.export import _saving as export

    model, tokenizer = tuned()
    adapter = export.save_adapter(model, tokenizer, folder / "adapter")
    export.merge(model, tokenizer, folder / "merged")
    files = gguf.make(folder / "merged", folder / "gguf", name=NAME, kinds=KINDS)
    return Exported(adapter, folder / "merged", files)


def found(folder: Path) -> Exported | None:
    """What an earlier `exported(folder)` made, if it came to its end."""
    files = {kind: folder / "gguf" / f"{NAME}-{kind}.gguf" for kind in KINDS}
    if not all(file.is_file() for file in files.values()):
        return None
    return Exported(folder / "adapter", folder / "merged", files)
