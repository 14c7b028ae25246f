import getpass
import importlib.metadata
import importlib.util
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lessonlib.runtime import _detect as runtime
from lessonlib.runtime import _language as language
from lessonlib.runtime import _unsloth as unsloth_backend
from lessonlib.runtime._detect import Gpu
from lessonlib.runtime._language import LessonError

T4 = Gpu("Tesla T4", (7, 5), 14.7)
L4 = Gpu("NVIDIA L4", (8, 9), 22.0)
V100 = Gpu("Tesla V100-SXM2-32GB", (7, 0), 31.7)
RTX = Gpu("NVIDIA RTX A4000", (8, 6), 15.7)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """A local machine with nothing set, in an empty folder."""
    for name in ("LESSONLIB_PROFILE", "LESSONLIB_WORK", "LESSONLIB_HEADLESS", "KAGGLE_KERNEL_RUN_TYPE",
                 "COLAB_RELEASE_TAG", "TOKEN_X"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.chdir(tmp_path)


def fake_module(monkeypatch, name, **attributes):
    module = ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def colab(monkeypatch, *, get=None, mount=None):
    """Colab as far as lessonlib sees it: google.colab with userdata and drive."""
    userdata = SimpleNamespace(get=get or (lambda name: None))
    drive = SimpleNamespace(mount=mount or (lambda path: None))
    package = fake_module(monkeypatch, "google.colab", userdata=userdata, drive=drive)
    monkeypatch.setitem(sys.modules, "google", fake_module(monkeypatch, "google", colab=package))


def kaggle(monkeypatch, get):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    fake_module(monkeypatch, "kaggle_secrets", UserSecretsClient=lambda: SimpleNamespace(get_secret=get))


def test_a_host_is_known_from_a_machine_of_ones_own(monkeypatch):
    assert not runtime.hosted()
    kaggle(monkeypatch, lambda name: None)
    assert runtime.hosted()
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    colab(monkeypatch)
    assert runtime.hosted()


# What follows from the GPU


@pytest.mark.parametrize(
    ("gpu", "profile", "dtype"),
    [
        (None, "rehearsal", "float32"),
        (T4, "t4", "float16"),
        (V100, "t4", "float16"),  # much memory, but no bfloat16 in hardware
        (RTX, "t4", "bfloat16"),  # bfloat16, but little memory
        (L4, "large", "bfloat16"),
    ],
)
def test_profile_and_dtype_follow_from_the_gpu(gpu, profile, dtype):
    import torch

    found = runtime.detect(gpu=gpu)
    assert (found.profile, found.dtype) == (profile, dtype)
    assert found.torch_dtype is getattr(torch, dtype)
    assert found.device == ("cpu" if gpu is None else "cuda")


def test_torch_is_not_asked_whether_bfloat16_works(monkeypatch):
    """On a T4 `is_bf16_supported` says True; a stub that would fail the test shows that nobody asks it."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(unsloth_backend, "unfit", lambda device: None)  # not in this process
    facts = SimpleNamespace(name="Tesla T4", total_memory=15_835_660_288)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *_: pytest.fail("asked for emulated bfloat16")
    )
    found = runtime.detect()
    assert found.gpu == Gpu("Tesla T4", (7, 5), 15_835_660_288 / 2**30)
    assert (found.profile, found.dtype, found.quantisation) == ("t4", "float16", "nf4")


def test_a_machine_without_gpu_rehearses(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.detect().gpu is None


@pytest.mark.parametrize(
    ("family", "attention", "quantisation"),
    [
        ("bloom", "eager", "none"),
        ("llama", "sdpa", "nf4"),
        ("phi3", "sdpa", "nf4"),
        ("gemma2", "eager", "nf4"),
    ],
)
def test_family_decides_attention_and_quantisation(family, attention, quantisation):
    found = runtime.detect(family=family, gpu=T4)
    assert (found.attention, found.quantisation) == (attention, quantisation)
    assert runtime.detect(family=family, gpu=L4).quantisation == "none"
    assert runtime.detect(family=family, gpu=None).quantisation == "none"


def test_eager_families_are_those_that_transformers_cannot_run_with_sdpa():
    from transformers import BloomConfig, BloomForCausalLM

    small = BloomConfig(vocab_size=8, hidden_size=8, n_layer=1, n_head=1)
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        BloomForCausalLM._from_config(small, attn_implementation="sdpa")


def test_unsloth_only_where_there_is_a_gpu_the_package_and_a_family_it_serves(monkeypatch):
    has = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "unsloth" or has(name))
    monkeypatch.setattr(unsloth_backend, "unfit", lambda device: pytest.fail("imported for a what-if"))
    assert runtime.detect(family="llama", gpu=T4).backend == "unsloth"
    assert runtime.detect(family="bloom", gpu=T4).backend == "transformers"
    assert runtime.detect(family="llama", gpu=None).backend == "transformers"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert runtime.detect(family="llama", gpu=T4).backend == "transformers"


@pytest.mark.parametrize("profile", ["rehearsal", "t4"])
def test_unsloth_is_imported_for_the_device_when_it_is_chosen(monkeypatch, profile):
    asked = []
    monkeypatch.setattr(unsloth_backend, "unfit", asked.append)
    monkeypatch.setattr(runtime, "_first_gpu", lambda: T4)
    assert runtime.detect(backend="unsloth", profile=profile).backend == "unsloth"
    assert asked == [{"rehearsal": "cpu", "t4": "cuda"}[profile]]


def test_an_unsloth_that_will_not_start_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(unsloth_backend, "unfit", lambda device: "ImportError: no triton")
    assert runtime.detect(backend="unsloth", gpu=None).backend == "transformers"
    assert capsys.readouterr().out == (
        "Unsloth cannot be used (ImportError: no triton); the lesson goes on with the backend transformers: "
        "the same results, on a GPU more slowly and with more memory.\n"
    )
    language.use("vi")
    runtime.detect(backend="unsloth", gpu=None)
    said = capsys.readouterr().out
    assert said.startswith("Không dùng được Unsloth (ImportError: no triton); ") and said.count("\n") == 1


def test_everything_can_be_overridden(tmp_path):
    found = runtime.detect(
        gpu=L4, profile="t4", dtype="float32", attention="eager", quantisation="none", backend="transformers",
        work=tmp_path / "mine",
    )  # fmt: skip
    assert (found.profile, found.dtype, found.attention, found.quantisation) == (
        "t4",
        "float32",
        "eager",
        "none",
    )
    assert found.work == tmp_path / "mine" and found.work.is_dir()


def test_the_profile_comes_from_the_argument_then_the_environment(monkeypatch):
    monkeypatch.setenv("LESSONLIB_PROFILE", "rehearsal")
    assert runtime.detect(gpu=T4).profile == "rehearsal"
    assert runtime.detect(gpu=T4, profile="large").profile == "large"


def test_a_rehearsal_beside_a_gpu_stays_on_the_cpu():
    found = runtime.detect(gpu=T4, profile="rehearsal")
    assert (found.device, found.dtype, found.quantisation) == ("cpu", "float32", "none")
    assert found.gpu == T4


def test_a_gpu_profile_without_gpu_names_the_menu():
    with pytest.raises(LessonError, match="Runtime > Change runtime type > T4 GPU"):
        runtime.detect(gpu=None, profile="t4")
    language.use("vi")
    with pytest.raises(LessonError, match="Thay đổi loại thời gian chạy > T4 GPU"):
        runtime.detect(gpu=None, profile="t4")


@pytest.mark.parametrize("name", ["family", "profile", "dtype", "attention", "quantisation", "backend"])
def test_an_unknown_choice_lists_the_known_ones(name):
    with pytest.raises(LessonError, match=f"{name}='fast'.*{runtime._CHOICES[name][-1]}"):
        runtime.detect(gpu=None, **{name: "fast"})


def test_pick():
    sizes = {"rehearsal": 1, "t4": 2}
    assert runtime.detect(gpu=None).pick(**sizes) == 1
    assert runtime.detect(gpu=T4).pick(**sizes) == 2
    assert runtime.detect(gpu=L4).pick(**sizes) == 2
    assert runtime.detect(gpu=L4).pick(**sizes, large=3) == 3


def test_it_is_shown_as_one_table_in_both_languages():
    found = runtime.detect(gpu=Gpu("Tesla <T4>", (7, 5), 14.7))
    assert "GPU            Tesla <T4>, 14.7 GiB, CUDA 7.5\n" in str(found)
    assert str(found).splitlines()[-1] == f"work folder    .{os.sep}runs"
    assert "<th>number format</th><td>float16</td>" in found._repr_html_()
    assert "Tesla &lt;T4&gt;" in found._repr_html_()
    language.use("vi")
    assert "<th>thư mục làm việc</th>" in found._repr_html_()


def test_colab_without_gpu_shows_where_to_get_one(monkeypatch):
    colab(monkeypatch)
    assert "Runtime > Change runtime type > T4 GPU" in str(runtime.detect(gpu=None))
    assert "Change runtime type" not in str(runtime.Runtime("local", None, "", "", "", "", "", Path("/")))


# Where it runs, and the folder that lasts


def test_the_work_folder_is_the_argument_then_the_environment_then_runs(monkeypatch, tmp_path):
    assert runtime.detect(gpu=None).work == tmp_path / "runs"
    monkeypatch.setenv("LESSONLIB_WORK", str(tmp_path / "set"))
    assert runtime.detect(gpu=None).work == tmp_path / "set"
    assert runtime.detect(gpu=None, work="given").work == tmp_path / "given"
    assert [path.name for path in (tmp_path / "given").iterdir()] == []  # the check left nothing behind


def test_a_work_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LessonError, match=r"file/below cannot be written.*LESSONLIB_WORK"):
        runtime.detect(gpu=None, work=tmp_path / "file" / "below")


def test_kaggle_works_in_its_own_folder(monkeypatch, tmp_path):
    kaggle(monkeypatch, get=lambda name: None)
    monkeypatch.setattr(runtime, "_KAGGLE_FOLDER", tmp_path / "working")
    found = runtime.detect(gpu=None)
    assert (found.platform, found.work) == ("kaggle", tmp_path / "working")


def test_drive_is_mounted_when_asked_and_only_then(monkeypatch, tmp_path):
    mounted = []

    def mount(path):
        mounted.append(path)
        Path(path, "MyDrive").mkdir(parents=True)

    colab(monkeypatch, mount=mount)
    monkeypatch.setattr(runtime, "_DRIVE_FOLDER", tmp_path / "drive")
    assert runtime.detect(gpu=None).work == tmp_path / "runs"
    assert mounted == []
    found = runtime.detect(gpu=None, drive=True)
    assert mounted == [str(tmp_path / "drive")]
    assert (found.platform, found.work) == ("colab", tmp_path / "drive" / "MyDrive" / "lessonlib")
    runtime.detect(gpu=None, drive=True)
    assert len(mounted) == 1  # it is there now
    assert found.exports == runtime._COLAB_DISK  # models that can be made again don't fill the Drive


def test_exports_stay_beside_the_rest_on_a_disk_of_ones_own(tmp_path):
    assert runtime.detect(gpu=None, work=tmp_path).exports == tmp_path


def test_a_full_drive_is_said_and_the_lesson_goes_on_locally(monkeypatch, tmp_path, capsys):
    colab(monkeypatch, mount=lambda path: pytest.fail("it is mounted already"))
    monkeypatch.setattr(runtime, "_DRIVE_FOLDER", tmp_path / "drive")
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    monkeypatch.setattr(runtime.shutil, "disk_usage", lambda path: SimpleNamespace(free=0.4e9))
    assert runtime.detect(gpu=None, drive=True).work == tmp_path / "runs"
    assert "only 0.4 GB left" in capsys.readouterr().out


def test_refused_drive_is_said_and_the_lesson_goes_on_locally(monkeypatch, tmp_path, capsys):
    def refuse(path):
        raise ValueError("mount failed")

    colab(monkeypatch, mount=refuse)
    monkeypatch.setattr(runtime, "_DRIVE_FOLDER", tmp_path / "drive")
    assert runtime.detect(gpu=None, drive=True).work == tmp_path / "runs"
    assert "Google Drive was not mounted (mount failed)" in capsys.readouterr().out


def test_headless_runs_never_ask_for_drive(monkeypatch, tmp_path):
    colab(monkeypatch, mount=lambda path: pytest.fail("opened a window nobody sees"))
    monkeypatch.setattr(runtime, "_DRIVE_FOLDER", tmp_path / "drive")
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")
    assert runtime.detect(gpu=None, drive=True).work == tmp_path / "runs"


@pytest.mark.parametrize(("value", "expected"), [("", False), ("0", False), ("1", True)])
def test_headless(monkeypatch, value, expected):
    monkeypatch.setenv("LESSONLIB_HEADLESS", value)
    assert runtime.headless() is expected


# Secrets


def test_a_secret_comes_from_the_environment_without_blanks(monkeypatch):
    monkeypatch.setenv("TOKEN_X", " hf_abc\n")
    assert runtime.secret("TOKEN_X") == "hf_abc"


def test_a_secret_does_not_show_itself(monkeypatch):
    monkeypatch.setenv("TOKEN_X", "hf_abc")
    token = runtime.secret("TOKEN_X")
    assert repr(token) == "Secret('********')"
    assert "hf_abc" not in repr([token]) + repr({"token": token})
    assert repr(pickle.loads(pickle.dumps(token))) == repr(token)
    assert f"Bearer {token}" == "Bearer hf_abc"  # where it is used it is itself


def test_colab_userdata_is_asked_before_the_environment(monkeypatch):
    colab(monkeypatch, get={"TOKEN_X": "from colab"}.get)
    monkeypatch.setenv("TOKEN_X", "from env")
    assert runtime.secret("TOKEN_X") == "from colab"


def test_colab_without_the_secret_falls_back_and_else_says_where_to_put_it(monkeypatch):
    class SecretNotFoundError(Exception):
        pass

    def get(name):
        raise SecretNotFoundError(name)

    colab(monkeypatch, get=get)
    with pytest.raises(LessonError, match="TOKEN_X is missing.*key icon.*add a secret"):
        runtime.secret("TOKEN_X")
    monkeypatch.setenv("TOKEN_X", "from env")
    assert runtime.secret("TOKEN_X") == "from env"


def test_colab_secret_without_notebook_access_says_so(monkeypatch):
    class NotebookAccessError(Exception):
        pass

    def get(name):
        raise NotebookAccessError(name)

    colab(monkeypatch, get=get)
    with pytest.raises(LessonError, match="may not read it.*Notebook access"):
        runtime.secret("TOKEN_X")
    language.use("vi")
    with pytest.raises(LessonError, match="chưa được phép đọc"):
        runtime.secret("TOKEN_X")


def test_kaggle_secrets(monkeypatch):
    def get(name):
        if name != "TOKEN_X":
            raise ConnectionError("Kaggle's own error")
        return "from kaggle"

    kaggle(monkeypatch, get=get)
    assert runtime.secret("TOKEN_X") == "from kaggle"
    with pytest.raises(LessonError, match="OTHER is missing.*Add-ons > Secrets"):
        runtime.secret("OTHER")


def test_a_missing_secret_on_a_local_machine_names_the_variable():
    with pytest.raises(LessonError, match="Set the environment variable TOKEN_X"):
        runtime.secret("TOKEN_X")


def test_the_prompt_is_hidden_and_only_used_when_asked_for(monkeypatch):
    prompts = []
    monkeypatch.setattr(getpass, "getpass", lambda prompt: prompts.append(prompt) or "typed")
    monkeypatch.setattr(runtime, "_somebody_can_type", lambda: True)
    with pytest.raises(LessonError, match="TOKEN_X is missing"):
        runtime.secret("TOKEN_X")
    assert prompts == []
    assert runtime.secret("TOKEN_X", ask=True) == "typed"
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")
    with pytest.raises(LessonError, match="TOKEN_X is missing"):
        runtime.secret("TOKEN_X", ask=True)
    assert len(prompts) == 1


def test_no_prompt_where_nobody_can_type(monkeypatch):
    monkeypatch.setattr(getpass, "getpass", lambda prompt: pytest.fail("prompted"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with pytest.raises(LessonError, match="TOKEN_X is missing"):
        runtime.secret("TOKEN_X", ask=True)


def test_a_kernel_without_keyboard_counts_as_missing(monkeypatch):
    def refuse(prompt):
        raise NotImplementedError("raw_input was called, but this frontend does not support input requests")

    monkeypatch.setattr(getpass, "getpass", refuse)
    monkeypatch.setattr(runtime, "_somebody_can_type", lambda: True)
    with pytest.raises(LessonError, match="TOKEN_X is missing"):
        runtime.secret("TOKEN_X", ask=True)


# Packages that changed under a running kernel


def test_restart_is_needed_when_the_imported_version_is_no_longer_the_installed_one(monkeypatch):
    fake_module(monkeypatch, "pyarrow", __version__="18.1.0")
    fake_module(monkeypatch, "torch", __version__="2.11.0+cu128")
    fake_module(monkeypatch, "peft", __version__="0.20.0")
    on_disk = {"pyarrow": "21.0.0", "torch": "2.11.0", "numpy": importlib.metadata.version("numpy")}

    def version(name):
        if name not in on_disk:
            raise importlib.metadata.PackageNotFoundError(name)
        return on_disk[name]

    monkeypatch.setattr(runtime, "_WATCHED", ("pyarrow", "torch", "peft", "not_imported"))
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert runtime.restart_needed() == ["pyarrow 18.1.0 -> 21.0.0", "peft 0.20.0 -> -"]


def test_every_watched_package_tells_its_version_truly():
    """Else a fresh kernel would be told to restart, again and again."""
    for name in runtime._WATCHED:
        assert importlib.import_module(name).__version__
    assert runtime.restart_needed() == []


def test_restart_in_colab_shuts_the_kernel_down_and_stops_the_notebook(monkeypatch):
    asked = []
    kernel = SimpleNamespace(do_shutdown=asked.append)
    colab(monkeypatch)
    fake_module(monkeypatch, "IPython", get_ipython=lambda: SimpleNamespace(kernel=kernel))
    with pytest.raises(LessonError, match=r"pyarrow 18 -> 21.*Run all once more"):
        runtime.restart(["pyarrow 18 -> 21"])
    assert asked == [True]


def test_restart_elsewhere_asks_for_it():
    with pytest.raises(LessonError, match="Restart the kernel, then run from the top"):
        runtime.restart(["numpy 2.1 -> 2.2"])
    language.use("vi")
    with pytest.raises(LessonError, match="khởi động lại kernel"):
        runtime.restart(["numpy 2.1 -> 2.2"])
