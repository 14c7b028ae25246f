"""From a merged model to GGUF files, the format of llama.cpp, Ollama, Jan, LM Studio and GPT4All.

Converting and quantising are llama.cpp's own work (`lessonlib.runtime._llama_cpp` finds it), in processes of
their own. Here it is made sure that they get a whole, merged model and room to work, that a file is there
whole or not at all, and that a second run goes on where the first stopped. Whether a file says what the
model says is not known here: that is `lessonlib.export.verify_gguf`.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lessonlib.export import _gguf_source as gguf_source
from lessonlib.export._gguf_convert import QUANTISED, REFUSED, ROWS_AT_ONCE
from lessonlib.export._gguf_source import SIZES
from lessonlib.export._saving import BESIDE_WEIGHTS, check_disk, sha256, write_json
from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError, Translated, tr

Say = Callable[[str], object]

KINDS = tuple(SIZES)
_CONVERTED = ("f32", "f16")
_RECORD = "lessonlib_gguf.json"  # in make's folder: what its files were made of, and that they are whole
_PROCESS = 700 * 2**20  # bytes of memory for the converter without a weight: twice what was measured
_SCRIPT = Path(__file__).with_name("_gguf_convert.py")


def _convert(source: Path, targets: Mapping[str, Path], name: str) -> None:
    """Convert with llama.cpp's converter, to all types in one process: most of the time goes into imports.

    Matrices get the type; norms and llama3's rope factors are f32 in both. Rows of the query and key matrices
    are put into the order that llama.cpp's rotary embedding wants. The tokenizer, the chat template and the
    ids of BOS, EOS and padding go into the file too. A tokenizer that the converter does not know is called
    `llama-bpe` only where its every setting is Llama 3's.
    """
    tools = llama_cpp_tools.find()
    shapes = gguf_source.shapes(source)
    # Weights are read one at a time: 2 bytes in the mapped file and 4 as fp32. With a matrix of 131 million
    # weights 1.1 GiB were measured, where this asks for 1.4.
    _check_memory(_PROCESS + 6 * max(map(math.prod, shapes), default=0))
    with ExitStack() as stack:
        partial = {outtype: stack.enter_context(_whole(target)) for outtype, target in targets.items()}
        types_and_files = [argument for pair in partial.items() for argument in map(str, pair)]
        done = _run("convert", str(tools.converter.parent), str(source), name, *types_and_files)
        if done.returncode == REFUSED:
            raise _foreign_tokenizer(source, json.loads(done.stdout.splitlines()[-1]))
        _check_done(done, Translated("Converting {source} to GGUF", source=source))


def _quantise(source: Path, target: Path, kind: str, say: Say) -> None:
    """Quantise a GGUF file in f32 or f16 with llama.cpp's quantiser.

    q8_0: every 32 weights in a row share an fp16 scale d, w = d q with 8-bit q: 8.5 bits a weight. q4_k_m:
    most matrices in blocks of 256 weights with fp16 scales d and e, and for every 32 of them a 6-bit scale s
    and minimum m, w = d s q - e m with 4-bit q: 4.5 bits; half of the value and down matrices, and the output
    or a tied embedding, in 6.56 bits (q6_K). Rows whose length is no multiple of the block cannot be stored
    so; llama.cpp then takes a type with smaller blocks and more bits, which `say` is told and `describe`
    lists.
    """
    _check_memory(_PROCESS // 2 + min(ROWS_AT_ONCE, 7 * describe(source)["parameters"]))
    with _whole(target) as partial:
        done = _run("quantise", str(source), str(partial), kind)
        _check_done(done, Translated("Quantising {source}", source=source))
    if "-> falling back to" in done.stderr:
        number = len(describe(target)["fallbacks"])
        say(
            tr(
                "{name}: the rows of {number} matrices do not come out even in the blocks of {kind}, so "
                "they have another type with more bits: see export.describe_gguf(...)['fallbacks'].",
                name=target.name, number=number, kind=kind,
            )
        )


def make(
    merged_folder: str | os.PathLike,
    out_folder: str | os.PathLike,
    *,
    name: str,
    kinds: Sequence[str] = ("f16", "q8_0", "q4_k_m"),
    say: Say = print,
) -> dict[str, Path]:
    """Make the GGUF files of a merged model, and go on from what an earlier call made.

    A record beside the files (lessonlib_gguf.json) holds the hash of the merged model, llama.cpp's version
    and the hash of each file. A file that is whole and of this model stays as it is; one of an earlier model
    is made again, or removed where it is not asked for. What a killed process left half-written is removed.

    Args:
        merged_folder: what `lessonlib.export.merge` wrote.
        out_folder: where the files go.
        name: of the model; the files are called `<name>-<kind>.gguf`.
        kinds: of "f32", "f16", "q8_0" (8.5 bits a weight), "q4_k_m" (4.5 bits for most matrices, 6.56 for
            some). The quantised ones are made from f16.
        say: is given a line for each file, and one where rows had to be stored in another type.

    Returns:
        kind -> file, in the order of `kinds`.

    Raises:
        LessonError: an adapter, a quantised model, code or pickles instead of safetensors; a tokenizer that
            llama.cpp would cut otherwise; no such kind; llama.cpp is missing; not enough disk or memory; a
            failed run, with its last lines; a name that is no file name; a file of that name that was not
            made here.
    """
    if unknown := [kind for kind in kinds or [""] if kind not in KINDS]:
        raise LessonError(
            "There is no {what} {kind!r}. Choose from: {there}.",
            what="kinds", kind=unknown[0], there=", ".join(KINDS),
        )
    gguf_source.check_name(name)
    source, folder = gguf_source.checked(merged_folder), Path(out_folder).expanduser().resolve()
    if any(kind in QUANTISED for kind in kinds):
        llama_cpp_tools.check_packages()  # before minutes of converting
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"{name}-{kind}.gguf" for kind in KINDS}
    record = _Record(folder, source)
    there = {kind for kind in {*kinds, "f16"} if record.holds(files[kind])}
    missing = {kind for kind in kinds if kind not in there}
    if "f16" not in there and any(kind in QUANTISED for kind in missing):
        missing.add("f16")
    record.check_own(files[kind] for kind in missing)
    shapes = gguf_source.shapes(source)
    check_disk(folder, sum(gguf_source.size(shapes, kind) + BESIDE_WEIGHTS for kind in missing))
    for kind in kinds:
        if kind not in missing:
            say(f"{files[kind].name}: " + tr("there already."))
    converted = {kind: files[kind] for kind in _CONVERTED if kind in missing}
    if converted:
        with record.making(converted.values(), say):
            _convert(source, converted, name)
    for kind in QUANTISED:
        if kind in missing:
            with record.making([files[kind]], say):
                _quantise(files["f16"], files[kind], kind, say)
    record.close([files["f16"]] if "f16" in missing - {*kinds} else [])
    return {kind: files[kind] for kind in kinds}


def describe(path: str | os.PathLike) -> dict[str, Any]:
    """What a GGUF file says of itself, read by llama.cpp's own reader; no weight is loaded.

    Args:
        path: a GGUF file.

    Returns:
        name, architecture, kind ("f16", "q4_k_m", ...), parameters (tied matrices once, rope factors not),
        file_size in bytes, tensor_types (type -> number of tensors), fallbacks (tensor -> type, where rows
        did not come out even in blocks), context_length, embedding_length, rope_base, rope_freqs (whether
        llama3's rope factors are there), norm_eps, tied_embeddings, tokenizer_model ("gpt2" is byte-level
        BPE), tokenizer_pre, vocabulary, bos_id, eos_id, eot_id, pad_id, add_bos, chat_template. What the
        file does not say is None.

    Raises:
        LessonError: no such file, or no whole GGUF file.
    """
    if not Path(path).is_file():
        raise LessonError("There is no file {path}.", path=path)
    done = _run("describe", str(llama_cpp_tools.find().converter.parent), str(path))
    if done.returncode:
        raise LessonError(
            "{path} is no whole GGUF file. Make or download it again.\n{stderr}",
            path=path, stderr=_tail(done.stderr),
        )
    return json.loads(done.stdout)


class _Record:
    """Which files of make's folder were made here, and which of them are whole and of this model."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.path = folder / _RECORD
        self.source = {"source": gguf_source.identity(source), "llama_cpp": llama_cpp_tools.VERSION}
        known = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        fits = {key: known.get(key) for key in self.source} == self.source
        # File name -> sha256; None: made here, but of another model or perhaps not whole.
        self.files: dict[str, str | None] = {
            name: digest if fits else None for name, digest in known.get("files", {}).items()
        }

    def holds(self, file: Path) -> bool:
        """Whether this very file was made of this very model."""
        return file.is_file() and self.files.get(file.name) == sha256(file)

    def check_own(self, files: Iterable[Path]) -> None:
        for file in files:
            if file.exists() and file.name not in self.files:
                raise LessonError(
                    "{file} exists already and was not made by export.make_gguf, so it must not be "
                    "overwritten. Choose another name or folder.",
                    file=file,
                )

    @contextmanager
    def making(self, files: Collection[Path], say: Say) -> Iterator[None]:
        """Around what makes files: if we are killed in it, they are still known to be ours to replace."""
        for file in files:
            say(f"{file.name}: " + tr("being made..."))
        self._write({file.name: None for file in files})
        yield
        self._write({file.name: sha256(file) for file in files})

    def close(self, passing: Iterable[Path]) -> None:
        """Remove what was made on the way only, and what is of an earlier model."""
        self._write({file.name: None for file in passing})
        for name in [name for name, digest in self.files.items() if digest is None]:
            file = self.path.with_name(name)
            file.unlink(missing_ok=True)
            _clear(file)
            del self.files[name]
        self._write({})

    def _write(self, changes: Mapping[str, str | None]) -> None:
        self.files |= changes
        partial = self.path.with_suffix(".partial")
        write_json(partial, {**self.source, "files": self.files})
        partial.replace(self.path)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A hidden file to write to; if the block ends well it takes the place of `target`, else it goes."""
    _clear(target)
    # A converter whose parent was killed goes on writing: its file must not be ours.
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _clear(target: Path) -> None:
    """Remove what killed processes left of a file."""
    for left_over in target.parent.glob(f".{target.name}.*.partial"):
        left_over.unlink()


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Start _gguf_convert.py: offline, without a GPU, and with llama.cpp's own gguf package."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "1"}
    environment.pop("NO_LOCAL_GGUF", None)
    return subprocess.run(
        [sys.executable, "-P", str(_SCRIPT), *arguments],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip


def _check_done(done: "subprocess.CompletedProcess[str]", step: Translated) -> None:
    if done.returncode:
        raise LessonError(
            "{step} failed (exit status {status}; -9 often means that the memory was full). llama.cpp "
            "said:\n{tail}",
            step=step, status=done.returncode, tail=_tail(done.stderr),
        )


def _tail(said: str) -> str:
    return "\n".join([line for line in said.splitlines() if line.strip()][-12:])


def _foreign_tokenizer(source: Path, differences: list[str]) -> LessonError:
    found = "; ".join(differences)
    return LessonError(
        "llama.cpp does not know the tokenizer in {source}, and it does not cut text as Llama 3's does "
        "({found}). The GGUF file would cut other tokens than in training. Use the base model's own "
        "tokenizer.",
        source=source, found=found,
    )


def _check_memory(needed: int) -> None:
    import psutil

    free = psutil.virtual_memory().available
    if free < needed:
        raise LessonError(
            "The memory is too full: about {needed:.1f} GB are needed, {free:.1f} GB are free. Restart the "
            "kernel, leave the training cells out and run the export again.",
            needed=needed / 1000000000.0, free=free / 1000000000.0,
        )
