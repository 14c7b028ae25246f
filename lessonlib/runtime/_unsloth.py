"""Unsloth as a backend: imported once, for the right device, without noise; or the reason why it cannot be.

Importing Unsloth replaces parts of transformers, peft and trl in the whole process. On a GPU these are its
own kernels. On a CPU (from 2026.10.9 on) it keeps transformers' layers, and changes the loss of trl's
SFTTrainer, its default settings, and loading. Nothing is imported before `unfit` or `load` is called.
"""

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import LessonError, tr
from lessonlib.runtime._paths import cache_dir

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

_LENGTH = 2048  # rows may not be longer: Unsloth fixes it at loading; the length of its own T4 notebook

# Read by Unsloth when it is imported; what a learner has set stays.
_SETTINGS = {
    "UNSLOTH_DISABLE_STATISTICS": "1",  # loading on a GPU would tell Unsloth which kind of machine this is
    "UNSLOTH_CPU_BF16": "0",  # else the CPU's abilities choose the number format, and losses differ
}
# Says which machine this is, so it would make a notebook differ from one run to the next.
_NOISE = re.compile(r"Unsloth [\d.]+: no GPU found|Unsloth \(CPU\): \w+ on \d+ CPU threads")
# Arguments of Unsloth's get_peft_model that are fields of a LoraConfig with the same meaning.
_FIELDS = (
    "r", "lora_alpha", "lora_dropout", "bias", "target_modules", "layers_to_transform", "layers_pattern",
    "use_rslora", "modules_to_save", "init_lora_weights",
)  # fmt: skip


def unfit(device: str) -> str | None:
    """Import Unsloth for this device, unless it already is.

    Args:
        device: "cpu" or "cuda"; "cpu" holds beside a GPU, too.

    Returns:
        None where Unsloth can be used, else why not, in a few words of the current language.
    """
    try:
        here = "cpu" if _imported(device).DEVICE_TYPE == "cpu" else "cuda"
    except Exception as problem:  # it checks drivers and versions, and raises whatever it meets there
        first = (str(problem).strip().splitlines() or [""])[0]
        return f"{type(problem).__name__}: {first[:160]}"
    if here != device:
        return tr(
            "this kernel has imported Unsloth for {here}; restart it to use Unsloth on {device}",
            here=here, device=device,
        )
    return None


def load(where: str, *, device: str, four_bits: bool, **arguments: Any) -> "PreTrainedModel":
    """A model through `FastLanguageModel`, without the tokenizer that comes with it.

    That tokenizer is passed over because Unsloth changes it (its length; on a GPU its padding token and, for
    some models, its template), and the exported model must have the publisher's.

    Args:
        where: a folder or Hub id.
        device: "cpu" or "cuda".
        four_bits: nf4 with double quantisation.
        **arguments: passed on, such as dtype, revision, token, max_seq_length (default _LENGTH).

    Returns:
        The model, in evaluation mode. Rows longer than its `max_seq_length` are cut on a GPU.
    """
    FastLanguageModel = _imported(device).FastLanguageModel
    arguments = {
        "max_seq_length": _LENGTH,
        "load_in_4bit": four_bits,
        "use_safetensors": True,
        # Else Unsloth swaps in its own pre-quantised repository, to which our commit does not belong.
        "use_exact_model_name": True,
        **arguments,
    }
    with _quietly(device):
        model, _ = FastLanguageModel.from_pretrained(model_name=where, **arguments)
    return model.eval()


def attach(model: "PreTrainedModel", config: "LoraConfig", *, device: str, seed: int) -> "PeftModel":
    """`FastLanguageModel.get_peft_model` with the values of a LoraConfig.

    Args:
        model: from `load`.
        config: what to adapt and how.
        device: "cpu" or "cuda"; activations are recomputed and offloaded ("unsloth") on a GPU only.
        seed: for the initial values of A.

    Returns:
        The PeftModel.

    Raises:
        LessonError: where the config asks for something that Unsloth's function does not take, such as DoRA,
            or leaves target_modules to the library: Unsloth's choice is not peft's.
    """
    from peft import LoraConfig

    if config.target_modules is None:
        raise LessonError(
            "The LoraConfig names no target_modules, and Unsloth's default is not peft's. Use "
            "lora.lora_config(model, ...).",
        )
    given = {name: getattr(config, name) for name in _FIELDS}
    plain = LoraConfig(**given, task_type=config.task_type).to_dict()
    beyond = [name for name, value in config.to_dict().items() if value != plain[name]]
    if beyond:
        raise LessonError(
            "Through Unsloth, lora.attach cannot pass on {beyond} of the LoraConfig. Leave it out, or use "
            "runtime.detect(backend='transformers').",
            beyond=", ".join(beyond),
        )
    if isinstance(config.target_modules, set):
        given["target_modules"] = sorted(config.target_modules)
    FastLanguageModel = _imported(device).FastLanguageModel
    with _quietly(device):
        return FastLanguageModel.get_peft_model(
            model,
            **given,
            random_state=seed,
            use_gradient_checkpointing="unsloth" if device == "cuda" else False,
        )


def _imported(device: str) -> Any:
    known = sys.modules.get("unsloth")
    if known is not None:
        return known
    # Where it writes the code that it generates for a GPU; by default into the current folder.
    for name, value in (*_SETTINGS.items(), ("UNSLOTH_COMPILE_LOCATION", str(cache_dir() / "unsloth"))):
        os.environ.setdefault(name, value)
    force = device == "cpu" and not {"UNSLOTH_FORCE_CPU", "UNSLOTH_DISABLE_CPU_FALLBACK"} & set(os.environ)
    if force:  # a rehearsal beside a GPU stays on the CPU
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    if device == "cpu":
        # It wants to come before transformers. On a CPU it changes classes in place, so the order is free
        # (tests/test_unsloth.py); on a GPU the warning is right, and stays.
        warnings.filterwarnings("ignore", message="WARNING: Unsloth should be imported before")
    try:
        with _quietly(device):
            import unsloth
    finally:
        if force:
            del os.environ["UNSLOTH_FORCE_CPU"]  # it has been read, and is no business of child processes
    return unsloth


@contextmanager
def _quietly(device: str) -> Iterator[None]:
    """On a CPU, prints what is printed inside after the end, without the lines that name the machine."""
    if device != "cpu":
        yield
        return
    said = StringIO()
    try:
        with redirect_stdout(said):
            yield
    finally:
        for line in said.getvalue().splitlines():
            if not _NOISE.match(line):
                print(line)
