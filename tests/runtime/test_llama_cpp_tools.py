import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from lessonlib.runtime import _language as language
from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError

ROOT = Path(__file__).parents[2]
KEPT = {
    "LICENSE": b"MIT",
    "convert_hf_to_gguf.py": b"import gguf",
    "conversion/llama.py": b"class LlamaModel: ...",
    "gguf-py/LICENSE": b"MIT too",
    "gguf-py/gguf/gguf_reader.py": b"class GGUFReader: ...",
}
OTHERS = {"src/llama.cpp": b"int main;", "conversion_notes.md": b"no", "gguf-py/tests/test.py": b"no"}


def sdist(path, members):
    """An archive like PyPI's, with these files in its copy of llama.cpp."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"llama_cpp_python-9/vendor/llama.cpp/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def digest(members):
    """The rule of `_digest`, written out: a line for each file, in the order of their names."""
    lines = [f"{name} {hashlib.sha256(members[name]).hexdigest()}\n" for name in sorted(members)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A pip that has one archive to give, of the pinned hashes; it notes what it was asked."""
    archive = sdist(tmp_path / "llama_cpp_python-9.tar.gz", KEPT | OTHERS)
    monkeypatch.setenv("LESSONLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(llama_cpp_tools, "_SDIST_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(llama_cpp_tools, "_KEPT_SHA256", digest(KEPT))
    asked = SimpleNamespace(archive=archive, commands=[], requirements=[])

    def pip(arguments, *, say=None, **environment):
        asked.commands.append((arguments, environment))
        if arguments[0] == "download":
            asked.requirements.append(Path(arguments[-1]).read_text())
            shutil.copy(asked.archive, arguments[arguments.index("--dest") + 1])

    monkeypatch.setattr(llama_cpp_tools, "_pip", pip)
    return asked


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# ---------------------------------------------------------------- find


def test_it_is_downloaded_once_and_only_the_converter_is_kept(pip, tmp_path):
    said = []
    tools = llama_cpp_tools.find(say=said.append)
    assert said == [f"Downloading llama.cpp's converter {llama_cpp_tools.VERSION} (77 MB, once)..."]
    assert pip.requirements == [
        f"llama-cpp-python=={llama_cpp_tools.VERSION} --hash=sha256:{llama_cpp_tools._SDIST_SHA256}\n"
    ]
    folder = tmp_path / "cache" / f"llama.cpp-{llama_cpp_tools.VERSION}"
    assert files(folder) == KEPT
    assert tools == llama_cpp_tools.Tools(llama_cpp_tools.VERSION, folder / "convert_hf_to_gguf.py")
    assert llama_cpp_tools.find(say=said.append) == tools
    assert len(pip.commands) == len(said) == 1
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {folder.name}


def test_what_python_compiled_in_the_cache_does_not_count(pip, tmp_path):
    tools = llama_cpp_tools.find()
    compiled = tools.converter.parent / "conversion" / "__pycache__" / "llama.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"anything")
    llama_cpp_tools.find()
    assert len(pip.commands) == 1


def spoil_change(folder):
    (folder / "conversion" / "llama.py").write_bytes(b"import os; os.system('...')")


def spoil_add(folder):
    (folder / "gguf-py" / "gguf" / "quants.py").write_bytes(b"more")


def spoil_remove(folder):
    (folder / "LICENSE").unlink()


@pytest.mark.parametrize("spoil", [spoil_change, spoil_add, spoil_remove])
def test_a_damaged_cache_is_replaced(pip, spoil):
    folder = llama_cpp_tools.find().converter.parent
    spoil(folder)
    llama_cpp_tools.find()
    assert files(folder) == KEPT and len(pip.commands) == 2


def test_a_download_with_another_hash_is_refused(pip, tmp_path):
    sdist(pip.archive, KEPT | {"conversion/llama.py": b"changed"})
    with pytest.raises(LessonError, match="that came does not have the known hash"):
        llama_cpp_tools.find()
    assert not any((tmp_path / "cache").iterdir())
    language.use("vi")
    with pytest.raises(LessonError, match="không khớp với mã băm đã biết"):
        llama_cpp_tools.find()


def test_what_was_unpacked_is_checked_too(pip, tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp_tools, "_KEPT_SHA256", digest(KEPT | {"conversion/more.py": b"expected"}))
    with pytest.raises(LessonError, match="that came does not have the known hash"):
        llama_cpp_tools.find()
    assert not any((tmp_path / "cache").iterdir())


def test_nothing_is_written_outside_the_folder(tmp_path):
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("x/vendor/llama.cpp/conversion/../../../evil.py")
        tar.addfile(member, io.BytesIO())
    with pytest.raises(tarfile.OutsideDestinationError):
        llama_cpp_tools._unpack(archive, tmp_path / "deep" / "er")
    assert {path.name for path in tmp_path.rglob("*.py")} == set()


def test_another_process_may_be_quicker(pip, tmp_path, monkeypatch):
    unpack = llama_cpp_tools._unpack

    def unpack_twice(archive, folder):
        unpack(archive, folder)
        unpack(archive, tmp_path / "cache" / f"llama.cpp-{llama_cpp_tools.VERSION}")

    monkeypatch.setattr(llama_cpp_tools, "_unpack", unpack_twice)
    assert files(llama_cpp_tools.find().converter.parent) == KEPT


def test_a_cache_that_cannot_be_written_is_named(pip, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LESSONLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(LessonError, match="cache folder .*file cannot be written to .* LESSONLIB_CACHE"):
        llama_cpp_tools.find()


def test_the_cache_lies_at_home_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("LESSONLIB_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert llama_cpp_tools.cache_dir() == tmp_path / ".cache" / "lessonlib"
    monkeypatch.setenv("LESSONLIB_CACHE", "~/elsewhere")
    assert llama_cpp_tools.cache_dir() == tmp_path / "elsewhere"


def played(monkeypatch, code):
    """Another program in the place of pip; what it was asked comes into the list."""
    asked, start = [], subprocess.Popen

    def popen(command, **options):
        asked.append(command)
        return start([sys.executable, "-u", "-c", code], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    return asked


def test_a_long_compilation_says_that_it_is_still_at_it(monkeypatch):
    monkeypatch.setattr(llama_cpp_tools, "_MINUTE", 0.2)
    played(monkeypatch, "import time; time.sleep(1)")
    llama_cpp_tools._pip(["install", "x"], say=(said := []).append)
    assert said[:2] == ["... still at it, 1 min", "... still at it, 2 min"]


def test_stopping_the_cell_stops_pip(monkeypatch):
    monkeypatch.setattr(llama_cpp_tools, "_MINUTE", 0.2)
    started, start = [], subprocess.Popen

    def popen(command, **options):
        started.append(start([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", popen)

    def say(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llama_cpp_tools._pip(["install", "x"], say=say)
    assert started[0].wait(timeout=10) != 0


def test_a_pip_that_fails_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONLIB_CACHE", str(tmp_path))

    played(monkeypatch, "for n in range(20): print('retry', n)\nexit('ERROR: no network')")
    with pytest.raises(LessonError, match=r"(?s)pip download failed\. .*:\nretry 6\n.*ERROR: no network$"):
        llama_cpp_tools.find()
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------- check_packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that puts another llama_cpp into the place of the real one."""

    def put(code):
        (tmp_path / "llama_cpp.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)

    yield put
    sys.modules.pop("llama_cpp", None)


CURE = r'python -m pip install "llama-cpp-python\[server\]==0\.3\.36" "sentencepiece==0\.2\.3"'


def test_the_pinned_version_is_fine(package):
    package(f"__version__ = {llama_cpp_tools.VERSION!r}")
    llama_cpp_tools.check_packages()


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("__version__ = '0.2.90'", "llama-cpp-python is at 0.2.90, and the course needs 0.3.36"),
        ("raise OSError('libgomp.so.1: no file')", r"llama_cpp does not load \(libgomp.so.1: no file\)"),
        ("import no_such_dependency", "No module named 'no_such_dependency'"),
    ],
)
def test_a_package_that_is_wrong_or_broken_is_named_with_the_cure(package, code, match):
    package(code)
    with pytest.raises(LessonError, match=f"{match}. Run `{CURE}`"):
        llama_cpp_tools.check_packages()


def test_missing_packages_are_named_with_the_cure(package, monkeypatch):
    package(f"__version__ = {llama_cpp_tools.VERSION!r}")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "llama_cpp", None)  # as if it were not installed
        with pytest.raises(LessonError, match=f"llama-cpp-python is not installed. Run `{CURE}`"):
            llama_cpp_tools.check_packages()
        language.use("vi")
        with pytest.raises(LessonError, match=f"chưa cài llama-cpp-python. Hãy chạy `{CURE}`"):
            llama_cpp_tools.check_packages()
        language.use("en")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LessonError, match=f"sentencepiece is not installed. Run `{CURE}`"):
        llama_cpp_tools.check_packages()


def test_the_pins_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = [Requirement(line) for line in project["optional-dependencies"]["gguf"]]
    ours = [Requirement(line) for line in llama_cpp_tools._PACKAGES]
    assert {r.name: str(r.specifier) for r in ours} == {r.name: str(r.specifier) for r in extra}


# ---------------------------------------------------------------- install


def test_what_is_there_is_not_installed_again(pip, package):
    package(f"__version__ = {llama_cpp_tools.VERSION!r}")
    llama_cpp_tools.find()
    said = []
    tools = llama_cpp_tools.install(say=said.append)
    assert tools.converter.is_file()
    assert said == [] and len(pip.commands) == 1


@pytest.mark.parametrize("wanted", [None, "-DGGML_CUDA=on"])
def test_what_is_missing_is_compiled(pip, package, monkeypatch, wanted):
    package("__version__ = '0.2.90'")
    monkeypatch.setattr(shutil, "which", lambda program: "/usr/bin/c++")
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    if wanted:
        monkeypatch.setenv("CMAKE_ARGS", wanted)
    download, said = llama_cpp_tools._pip, []

    def installs(arguments, *, say=None, **environment):
        download(arguments, **environment)
        if arguments[0] == "install":
            package(f"__version__ = {llama_cpp_tools.VERSION!r}  # new")

    monkeypatch.setattr(llama_cpp_tools, "_pip", installs)
    llama_cpp_tools.install(say=said.append)
    assert pip.commands[0] == (
        ["install", *llama_cpp_tools._PACKAGES], {"CMAKE_ARGS": wanted or llama_cpp_tools._FLAGS}
    )  # fmt: skip
    assert [line.split()[0] for line in said] == ["Compiling", "Downloading"]


def test_on_a_host_a_ready_made_wheel_is_taken_first(pip, package, monkeypatch):
    package("__version__ = '0.2.90'")
    download, said = llama_cpp_tools._pip, []

    def installs(arguments, *, say=None, **environment):
        download(arguments, **environment)
        if "--only-binary" in arguments:
            package(f"__version__ = {llama_cpp_tools.VERSION!r}  # new")

    monkeypatch.setattr(llama_cpp_tools, "_pip", installs)
    llama_cpp_tools.install(prebuilt=True, say=said.append)
    assert "--extra-index-url" in pip.commands[0][0]
    assert [line.split()[0] for line in said] == ["Installing", "Downloading"]


def test_without_a_ready_made_wheel_it_is_compiled(pip, package, monkeypatch):
    package("__version__ = '0.2.90'")
    monkeypatch.setattr(shutil, "which", lambda program: "/usr/bin/c++")
    download, said = llama_cpp_tools._pip, []

    def installs(arguments, *, say=None, **environment):
        download(arguments, **environment)
        if "--only-binary" in arguments:
            raise LessonError("There is none.")
        if arguments[0] == "install":
            package(f"__version__ = {llama_cpp_tools.VERSION!r}  # new")

    monkeypatch.setattr(llama_cpp_tools, "_pip", installs)
    llama_cpp_tools.install(prebuilt=True, say=said.append)
    assert [line.split()[0] for line in said] == ["Installing", "Compiling", "Downloading"]


def test_an_installation_without_effect_is_noticed(pip, package, monkeypatch):
    package("__version__ = '0.2.90'")
    monkeypatch.setattr(shutil, "which", lambda program: "/usr/bin/c++")
    with pytest.raises(LessonError, match="is at 0.2.90.*restart the kernel"):
        llama_cpp_tools.install()


@pytest.mark.skipif(os.name != "posix", reason="on Windows CMake looks for the compiler")
def test_without_a_compiler_the_cure_is_named(pip, package, monkeypatch):
    package("__version__ = '0.2.90'")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(LessonError, match="no C\\+\\+ compiler.*apt-get install build-essential"):
        llama_cpp_tools.install()
    assert pip.commands == []
