"""llama.cpp on this machine: its Python bindings, and the converter that comes with their source alone.

Both are of one pinned version. The source is downloaded once, checked against a known hash, and three folders
of Python are kept of it in a cache. What the tools do is in `lessonlib.export`.
"""

import ctypes
import hashlib
import importlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lessonlib.runtime._language import LessonError, Translated, tr
from lessonlib.runtime._paths import CACHE, cache_dir

VERSION = "0.3.36"
_SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
# Of the files that are kept, by `_digest`: what runs is what was looked at, however the cache was filled.
_KEPT_SHA256 = "9b1c89accde47379d6bdfe0f386b94e850f956cbac4f2ee254a6753599a39eab"
_KEPT = ("LICENSE", "convert_hf_to_gguf.py", "conversion", "gguf-py/LICENSE", "gguf-py/gguf")
# The converter imports sentencepiece before it knows whether the tokenizer needs it.
_PACKAGES = (f"llama-cpp-python[server]=={VERSION}", "sentencepiece==0.2.3")
# Without the part for images; and not for this very processor, as pip keeps what it compiled and another
# machine may share that cache.
_FLAGS = "-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF"
# Ready-made wheels for CPUs, by llama-cpp-python's own project (its README, "Pre-built Wheel").
_WHEELS = "https://abetlen.github.io/llama-cpp-python/whl/cpu"
_MINUTE = 60  # seconds
_ERROR = 4  # ggml's log level, as ggml.h has it


@dataclass(frozen=True)
class Tools:
    """llama.cpp's converter.

    Args:
        version: of llama-cpp-python, whose source it lay in.
        converter: convert_hf_to_gguf.py, beside what it needs: the package `conversion`, and gguf-py with
            llama.cpp's own `gguf`, which has parts that the one on PyPI lacks.
    """

    version: str
    converter: Path


def find(*, say: Callable[[str], object] = print) -> Tools:
    """The converter, from the cache; the first time it is downloaded with pip (77 MB) and unpacked there.

    Args:
        say: is given one line before a download.

    Returns:
        Where the parts lie. They were checked against the hash of the pinned version.

    Raises:
        LessonError: nothing is cached and pip could not download it, or what came is not the pinned source.
    """
    folder = cache_dir() / f"llama.cpp-{VERSION}"
    if not (folder.is_dir() and _digest(folder) == _KEPT_SHA256):
        say(tr("Downloading llama.cpp's converter {version} (77 MB, once)...", version=VERSION))
        _fill(folder)
    return Tools(VERSION, folder / "convert_hf_to_gguf.py")


def check_packages() -> None:
    """Check that llama.cpp's bindings load and are of the pinned version, and that sentencepiece is there.

    Raises:
        LessonError: says what is missing and the command that installs it.
    """
    importlib.invalidate_caches()  # pip may have installed it a moment ago, from this very process
    try:
        import llama_cpp
    except ModuleNotFoundError as error:
        if error.name != "llama_cpp":
            raise _missing(error) from error
        raise _missing(Translated("llama-cpp-python is not installed")) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise _missing(Translated("llama_cpp does not load ({error})", error=error)) from error
    found = llama_cpp.__version__
    if found != VERSION:
        raise _missing(Translated(
            "llama-cpp-python is at {found}, and the course needs {version}", found=found, version=VERSION,
        ))
    if importlib.util.find_spec("sentencepiece") is None:
        raise _missing(Translated("sentencepiece is not installed"))


def install(*, prebuilt: bool = False, say: Callable[[str], object] = print) -> Tools:
    """Make sure that bindings and converter are there; what is there already costs no time and no network.

    On PyPI the bindings are source only, so pip compiles them: five to ten minutes on two cores, once; pip
    keeps the result in its cache. Their part for images is left out, unless the environment variable
    CMAKE_ARGS says something else.

    Args:
        prebuilt: look first for a ready-made wheel of this version on the project's own index, and compile
            only where there is none or it doesn't load. Unlike the source it is not checked against a hash.
        say: is given a line before each thing that takes long, and one a minute while it compiles.

    Returns:
        What `find` returns.

    Raises:
        LessonError: there is no C++ compiler, or pip failed; with the end of what it wrote.
    """
    try:
        check_packages()
    except LessonError:
        if not (prebuilt and _ready_made(say)):
            _check_compiler()
            say(
                tr(
                    "Compiling llama-cpp-python {version} with the C++ compiler (5 to 10 minutes, once)...",
                    version=VERSION,
                )
            )
            _pip(["install", *_PACKAGES], say=say, CMAKE_ARGS=os.environ.get("CMAKE_ARGS", _FLAGS))
            check_packages()
    return find(say=say)


def _ready_made(say: Callable[[str], object]) -> bool:
    """Whether a wheel of the project's own could be installed and loads."""
    say(tr("Installing llama-cpp-python {version}...", version=VERSION))
    index = ["--extra-index-url", _WHEELS, "--only-binary", "llama-cpp-python", "--retries", "1"]
    try:
        _pip(["install", *index, *_PACKAGES])
        check_packages()
    except LessonError:
        return False
    return True


@contextmanager
def errors_kept() -> Iterator[list[str]]:
    """Inside the block llama.cpp prints nothing; what it logs as an error is kept in the list.
    Afterwards its log goes where it went before."""
    import llama_cpp

    said: list[str] = []

    @llama_cpp.llama_log_callback
    def keep(level: int, message: bytes, _: Any) -> None:
        if level == _ERROR:
            said.append(message.decode(errors="replace").strip())

    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    llama_cpp.llama_log_set(keep, ctypes.c_void_p())
    try:
        yield said
    finally:
        llama_cpp.llama_log_set(before, data)


def _fill(folder: Path) -> None:
    """Download the source and put what is kept of it at `folder`, all at once or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as work:
            unpacked = Path(work, "unpacked")
            _unpack(_download(Path(work)), unpacked)
            if _digest(unpacked) != _KEPT_SHA256:
                raise _altered()
            if _digest(folder) != _KEPT_SHA256:
                shutil.rmtree(folder, ignore_errors=True)  # something that is not what it should be
            try:
                unpacked.rename(folder)
            except OSError:
                if _digest(folder) != _KEPT_SHA256:  # else another process was quicker, and did the same
                    raise
    except OSError as error:
        raise LessonError(
            "The cache folder {parent} cannot be written to ({error}). Set the environment variable {cache} "
            "to a folder that can, with some 200 MB free.",
            parent=folder.parent, error=error, cache=CACHE,
        ) from error


def _download(folder: Path) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{_SDIST_SHA256}\n", encoding="utf-8")
    source = ["--no-binary", "llama-cpp-python", "--no-deps"]
    _pip(["download", "--quiet", "--retries", "2", *source, "--dest", str(folder), "-r", str(wanted)])
    [archive] = folder.glob("*.tar.gz")
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != _SDIST_SHA256:
            raise _altered()
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of _KEPT to `folder`, as if vendor/llama.cpp were its root."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, name = member.name.partition("/vendor/llama.cpp/")
            if member.isfile() and any(name == kept or name.startswith(f"{kept}/") for kept in _KEPT):
                tar.extract(member.replace(name=name, deep=False), folder, filter="data")


def _digest(folder: Path) -> str:
    """SHA-256 of a folder's files and their names; what Python compiled there does not count."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    names = {path.relative_to(folder).as_posix(): path for path in files}
    whole = hashlib.sha256()
    for name in sorted(names):
        whole.update(f"{name} {hashlib.sha256(names[name].read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _pip(arguments: list[str], *, say: Callable[[str], object] | None = None, **environment: str) -> None:
    pip = subprocess.Popen(
        [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"],
        env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    try:
        for minute in itertools.count(1):
            try:
                output, _ = pip.communicate(timeout=_MINUTE)
                break
            except subprocess.TimeoutExpired:
                if say is not None:
                    say(tr("... still at it, {minute} min", minute=minute))
    finally:
        pip.kill()  # where the learner pressed Stop; one that has ended is left alone
    if pip.returncode:
        said = "\n".join(output.strip().splitlines()[-15:])
        raise LessonError(
            "pip {arguments} failed. Check the network and run it again; on a machine without one, copy the "
            "folder {cache_dir} from a machine where `lessonlib course tools` ran. pip said:\n{said}",
            arguments=arguments[0], cache_dir=cache_dir(), said=said,
        )


def _check_compiler() -> None:
    named = os.environ.get("CXX", "").split()[:1]
    if os.name == "posix" and not any(map(shutil.which, [*named, "c++", "g++", "clang++"])):
        raise LessonError(
            "There is no C++ compiler, and llama-cpp-python has to be compiled. Install one: on Ubuntu "
            "`sudo apt-get install build-essential`, on macOS `xcode-select --install`, then run this "
            "again. Colab has one.",
        )


def _missing(why: Translated | Exception) -> LessonError:
    packages = " ".join(f'"{package}"' for package in _PACKAGES)
    return LessonError(
        "llama.cpp is missing: {why}. Run `python -m pip install {packages}` (it takes a C++ compiler and "
        "some minutes, once), or `lessonlib course tools`. If the notebook had loaded another version "
        "before, restart the kernel.",
        why=why, packages=packages,
    )


def _altered() -> LessonError:
    return LessonError(
        "The source of llama-cpp-python {version} that came does not have the known hash, so it is not "
        "used. See where your pip downloads from (`pip config list`) and run this again.",
        version=VERSION,
    )
