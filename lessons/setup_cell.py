# @title Chuẩn bị: bấm chạy trước tiên / Set-up: run this first {display-mode: "form"}
# In Colab and Kaggle it installs the course's package and pins, elsewhere it only says what is there.
# It keeps the host's torch, and stops with a word where the kernel must restart before the lesson goes on.
import importlib
import importlib.util
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGE = "lessonlib @ git+https://github.com/{{repository}}@{{ref}}"
PINS = """
{{pins}}
""".split()  # noqa: SIM905


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def pip(*arguments):
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise RuntimeError(f"{tail}\n\nCài đặt chưa xong: kiểm tra mạng rồi chạy lại ô này."
                           "\nThe installation failed: check the network, then run this cell again.")


hosted = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
in_place = importlib.util.find_spec("lessonlib") is not None
if hosted and not (in_place and all(pin == f"{(name := pin.split('==')[0])}=={installed(name)}" for pin in PINS)):
    from packaging.specifiers import SpecifierSet

    if (found := installed("torch") or "0").split("+")[0] not in SpecifierSet("{{torch}}"):
        cure = "Runtime > Change runtime type > Runtime version"
        raise RuntimeError(f"Máy này có torch {found}, khóa học cần torch {{torch}}. Hãy chọn bản Colab khác: {cure}."
                           f"\nThis machine has torch {found}, the course needs torch {{torch}}. Take another Colab: {cure}.")
    print("Đang cài đặt, chừng một hai phút / Installing, a minute or two ...")
    if (torchao := installed("torchao")) and tuple(map(int, torchao.split(".")[:2])) < (0, 16):
        pip("uninstall", "--yes", "torchao")  # peft refuses to work beside an older torchao, used or not
    pip("install", "--quiet", f"torch=={installed('torch')}", PACKAGE, *PINS)
    importlib.invalidate_caches()
elif not in_place:
    raise RuntimeError(f"Chưa có lessonlib, hãy cài rồi chạy lại / lessonlib is missing: pip install '{PACKAGE}'")

import lessonlib
from lessonlib import runtime

if changed := runtime.restart_needed():
    runtime.restart(changed)
print("lessonlib", lessonlib.__version__)
