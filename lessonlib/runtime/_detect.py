"""Finds out where a lesson runs and what follows from it; knows nothing about models, data or training.

The GPU decides the profile, the profile and the model family decide number format, attention, quantisation
and backend. Whatever is decided here can be overridden by an argument, and is shown as one small table. Also
here, because they depend on the place: secrets, the folder for checkpoints, and whether the kernel must
restart.
"""

import getpass
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from lessonlib.runtime import _unsloth as unsloth_backend
from lessonlib.runtime._language import LessonError, Translated, tr

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

FAMILIES = ("bloom", "llama", "phi3", "gemma2", "gemma3")
_PROFILES = ("rehearsal", "laptop", "t4", "large")
ON_CPU = ("rehearsal", "laptop")  # beside a GPU too: their numbers are everybody's
_CHOICES = {
    "family": FAMILIES,
    "profile": ("auto", *_PROFILES),
    "dtype": ("float32", "float16", "bfloat16"),
    "attention": ("eager", "sdpa"),
    "quantisation": ("none", "nf4"),
    "backend": ("transformers", "unsloth"),
}
# transformers has no sdpa for BLOOM (its ALiBi bias), and sdpa leaves out Gemma-2's soft-capping without a
# word; for Gemma-3 transformers itself advises eager in training.
_EAGER_FAMILIES = ("bloom", "gemma2", "gemma3")
# At most 560 million parameters: they fit any GPU in 16 bits, nothing to gain from 4 bits.
_SMALL_FAMILIES = ("bloom", "gemma3")
_UNSLOTH_FAMILIES = ("llama", "phi3", "gemma2")
_T4_MEMORY_GIB = 16.5  # cards sold as "16 GB"; a T4 reports 14.7
_DRIVE_FOLDER = Path("/content/drive")
_COLAB_DISK = Path("/content/lessonlib")
_DRIVE_GB = 2.0  # checkpoints and adapters of one lesson, with room
_KAGGLE_FOLDER = Path("/kaggle/working")
# Packages whose old code may still be loaded after pip changed them on disk; each tells its own version
# truly.
_WATCHED = (
    "torch", "numpy", "pandas", "pyarrow", "fsspec", "datasets", "transformers", "tokenizers", "trl", "peft",
    "accelerate", "huggingface_hub", "safetensors", "bitsandbytes",
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """One CUDA device.

    Args:
        name: as the driver names it, such as "Tesla T4".
        capability: CUDA compute capability, (7, 5) for a T4.
        memory_gib: total memory in GiB.
    """

    name: str
    capability: tuple[int, int]
    memory_gib: float


@dataclass(frozen=True)
class Runtime:
    """Where a lesson runs and what that means for it; made by `detect`.

    Args:
        platform: "colab", "kaggle" or "local".
        gpu: the first CUDA device, or None.
        profile: "rehearsal" (twin on the CPU), "laptop" (a real small model on the CPU), "t4" (16 GB card)
            or "large"; sets model, sizes and steps only.
        dtype: number format of the weights: "float32", "float16" or "bfloat16".
        attention: "eager" or "sdpa"; never FlashAttention, which a T4 cannot run.
        quantisation: "none" or "nf4" (4 bits).
        backend: who loads the model, "transformers" or "unsloth".
        work: existing, writable folder for checkpoints, adapters and results.
    """

    platform: str
    gpu: Gpu | None
    profile: str
    dtype: str
    attention: str
    quantisation: str
    backend: str
    work: Path

    @property
    def device(self) -> str:
        """Where the model lies."""
        return "cuda" if self.gpu is not None and self.profile not in ON_CPU else "cpu"

    @property
    def exports(self) -> Path:
        """For what is large and can be made again (merged models, GGUF files): the work folder, but this
        machine's own disk where that is on Google Drive, whose free quota is 15 GB."""
        return _COLAB_DISK if self.work.is_relative_to(_DRIVE_FOLDER) else self.work

    @property
    def torch_dtype(self) -> "torch.dtype":
        """`dtype` as torch's own object."""
        import torch

        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[self.dtype]

    def pick(self, *, rehearsal: T, t4: T, laptop: T | None = None, large: T | None = None) -> T:
        """The value for this profile; `laptop` is the same as `rehearsal` and `large` as `t4` unless
        given."""
        values = {
            "rehearsal": rehearsal, "laptop": rehearsal if laptop is None else laptop,
            "t4": t4, "large": t4 if large is None else large,
        }  # fmt: skip
        return values[self.profile]

    def rows(self) -> list[tuple[str, str]]:
        """The table that a learner sees, as (name, value) in the current language."""
        if self.gpu is not None:
            major, minor = self.gpu.capability
            gpu = f"{self.gpu.name}, {self.gpu.memory_gib:.1f} GiB, CUDA {major}.{minor}"
        elif self.platform == "colab":
            gpu = tr("none (to get one: Runtime > Change runtime type > T4 GPU)")
        else:
            gpu = tr("none")
        return [
            (tr("platform"), self.platform),
            ("GPU", gpu),
            ("profile", self.profile),
            (tr("device"), self.device),
            (tr("number format"), self.dtype),
            ("attention", self.attention),
            (tr("quantisation"), self.quantisation),
            ("backend", self.backend),
            (tr("work folder"), _shown(self.work)),
        ]

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.rows())
        return f"<table>{''.join(rows)}</table>"


def detect(
    *,
    family: str = "llama",
    profile: str = "auto",
    dtype: str | None = None,
    attention: str | None = None,
    quantisation: str | None = None,
    backend: str | None = None,
    work: str | Path | None = None,
    drive: bool = False,
    gpu: Any = "auto",
) -> Runtime:
    """Look at the machine once and decide how a lesson runs on it.

    bfloat16 needs capability 8: `torch.cuda.is_bf16_supported()` also says True on a T4, where it is
    emulated.

    Args:
        family: the model family of the lesson, one of FAMILIES.
        profile: "auto" takes LESSONLIB_PROFILE, else rehearsal without a GPU, t4 for a card of at most 16.5
            GiB or capability below 8, else large. "laptop" has to be asked for: it downloads a model.
        dtype: default float32 on the CPU, else bfloat16 from capability 8 on and float16 below.
        attention: default eager for BLOOM, Gemma-2 and Gemma-3, else sdpa.
        quantisation: default nf4 for families of 2B parameters and more on profile t4, else none.
        backend: default unsloth where a GPU and the package are there and the family is one it speeds up,
            else transformers. For unsloth it is imported here, because it wants to come before the libraries
            that it changes; where it is missing or will not start, one line says so and the backend is
            transformers.
        work: folder for checkpoints; default LESSONLIB_WORK, else Google Drive if `drive`, else
            /kaggle/working, else runs/ in the current folder. It is created.
        drive: in Colab, ask to mount Google Drive and work there, so that a disconnect loses nothing.
        gpu: a `Gpu` or None instead of what torch finds ("auto"); for tests and what-if questions. For a
            `Gpu` given here Unsloth is not imported.

    Returns:
        A frozen `Runtime`.

    Raises:
        LessonError: for an unknown choice, a GPU profile without a GPU, or a folder that cannot be written.
    """
    profile = os.environ.get("LESSONLIB_PROFILE") or "auto" if profile == "auto" else profile
    asked = {"family": family, "profile": profile, "dtype": dtype, "attention": attention,
             "quantisation": quantisation, "backend": backend}  # fmt: skip
    for name, value in asked.items():
        if value is not None and value not in _CHOICES[name]:
            raise LessonError(
                "{name}={value!r} is not one of the choices: {choices}.",
                name=name, value=value, choices=", ".join(_CHOICES[name]),
            )
    found: Gpu | None = _first_gpu() if gpu == "auto" else gpu
    if profile == "auto":
        profile = _profile_for(found)
    if found is None and profile not in ON_CPU:
        raise LessonError(
            "Profile {profile!r} needs a GPU and this machine has none. In Colab: Runtime > Change runtime "
            "type > T4 GPU, then run from the top. Without a GPU: leave the profile out (LESSONLIB_PROFILE "
            "too), and the lesson runs in rehearsal.",
            profile=profile,
        )
    backend = backend or _backend_for(family, profile)
    if backend == "unsloth" and not isinstance(gpu, Gpu):
        backend = _unsloth_or_not("cpu" if profile in ON_CPU else "cuda")
    place = _platform()
    return Runtime(
        platform=place,
        gpu=found,
        profile=profile,
        dtype=dtype or _dtype_for(found, profile),
        attention=attention or ("eager" if family in _EAGER_FAMILIES else "sdpa"),
        quantisation=quantisation or ("nf4" if profile == "t4" and family not in _SMALL_FAMILIES else "none"),
        backend=backend,
        work=_work_folder(work, drive, place),
    )


def headless() -> bool:
    """Whether nobody is watching (LESSONLIB_HEADLESS=1): then no widgets, no prompts, no progress bars."""
    return os.environ.get("LESSONLIB_HEADLESS", "") not in ("", "0")


def hosted() -> bool:
    """Whether this is a machine of Colab's or Kaggle's, where a lesson installs what it needs."""
    return _platform() != "local"


class MissingSecret(LessonError):
    """No place has the token or password that was asked for."""


class Secret(str):
    """A string that does not show itself when a notebook displays it. Printing it on purpose still does."""

    def __repr__(self) -> str:
        return "Secret('********')"


def secret(name: str, *, ask: bool = False) -> Secret:
    """A token or password, from the first place that has it: Colab, Kaggle, the environment, a hidden prompt.

    Args:
        name: such as "HF_TOKEN" or "WANDB_API_KEY".
        ask: prompt for it, hidden, where somebody can type (never in headless runs).

    Returns:
        The secret without surrounding blanks.

    Raises:
        MissingSecret: (a LessonError) where no place has it; it says where to put it.
    """
    refused = False
    value = None
    place = _platform()
    if place == "colab":
        value, refused = _colab_secret(name)
    elif place == "kaggle":
        value = _kaggle_secret(name)
    value = value or os.environ.get(name)
    if not value and ask and not headless() and _somebody_can_type():
        try:
            value = getpass.getpass(f"{name}: ")
        except (EOFError, NotImplementedError):  # a kernel that is run by a program has no keyboard
            value = None
    if value and value.strip():
        return Secret(value.strip())
    raise MissingSecret("{name} is missing. {cure}", name=name, cure=_where_to_put(name, place, refused))


def restart_needed() -> list[str]:
    """Packages whose version in memory differs from the one now on disk, as "name old -> new".

    After pip replaced a package that the kernel had imported, old and new code would mix: restart first.
    """
    changed = []
    for name in _WATCHED:
        loaded = getattr(sys.modules.get(name), "__version__", None)
        if loaded is None:
            continue
        try:
            on_disk = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            on_disk = "-"
        if loaded.split("+")[0] != on_disk.split("+")[0]:  # "2.11.0+cu128" is 2.11.0
            changed.append(f"{name} {loaded} -> {on_disk}")
    return changed


def restart(changed: list[str]) -> NoReturn:
    """Stop the notebook here because packages changed under it; in Colab also restart its kernel.

    Args:
        changed: what `restart_needed` returned.

    Raises:
        LessonError: always, so that Run all stops at this cell; it says what to do next.
    """
    which = ", ".join(changed)
    if _platform() == "colab":
        shell = sys.modules["IPython"].get_ipython()
        shell.kernel.do_shutdown(True)  # Colab starts a new kernel in the same session; files stay
        raise LessonError(
            "Installed; the kernel is restarting because packages changed under it ({which}). This is no "
            "failure: wait a few seconds, then Runtime > Run all once more; nothing is installed again. If "
            "the kernel does not come back by itself: Runtime > Restart session.",
            which=which,
        )
    raise LessonError(
        "Packages changed under the running kernel ({which}). Restart the kernel, then run from the top.",
        which=which,
    )


def _platform() -> str:
    if "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ:
        return "colab"
    return "kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else "local"


def _first_gpu() -> Gpu | None:
    import torch

    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    return Gpu(facts.name, torch.cuda.get_device_capability(0), facts.total_memory / 2**30)


def _profile_for(gpu: Gpu | None) -> str:
    if gpu is None:
        return "rehearsal"
    return "t4" if gpu.memory_gib <= _T4_MEMORY_GIB or gpu.capability < (8, 0) else "large"


def _dtype_for(gpu: Gpu | None, profile: str) -> str:
    if gpu is None or profile in ON_CPU:
        return "float32"
    return "bfloat16" if gpu.capability >= (8, 0) else "float16"


def _backend_for(family: str, profile: str) -> str:
    served = profile not in ON_CPU and family in _UNSLOTH_FAMILIES
    return "unsloth" if served and importlib.util.find_spec("unsloth") else "transformers"


def _unsloth_or_not(device: str) -> str:
    """The backend to use where unsloth was chosen; a word where it cannot be had."""
    reason = unsloth_backend.unfit(device)
    if reason is None:
        return "unsloth"
    print(
        tr(
            "Unsloth cannot be used ({reason}); the lesson goes on with the backend transformers: the same "
            "results, on a GPU more slowly and with more memory.",
            reason=reason,
        )
    )
    return "transformers"


def _work_folder(work: str | Path | None, drive: bool, place: str) -> Path:
    chosen = work or os.environ.get("LESSONLIB_WORK")
    if chosen:
        folder = Path(chosen)
    elif place == "colab" and drive and _mount_drive():
        folder = _DRIVE_FOLDER / "MyDrive" / "lessonlib"
    elif place == "kaggle":
        folder = _KAGGLE_FOLDER
    else:
        folder = Path("runs")
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise LessonError(
            "The work folder {folder} cannot be written ({strerror}). Choose another: "
            "runtime.detect(work='...') or the environment variable LESSONLIB_WORK.",
            folder=folder, strerror=problem.strerror,
        ) from problem
    return folder


def _mount_drive() -> bool:
    """True if Google Drive is there to be written, with room; a learner without is told what that means."""
    if (_DRIVE_FOLDER / "MyDrive").is_dir():
        return _room_on_drive()
    if not headless():  # mounting asks for permission in a window
        try:
            from google.colab import drive

            drive.mount(str(_DRIVE_FOLDER))
            return _room_on_drive()
        except Exception as problem:  # refused, timed out, no account: Colab raises several unrelated types
            print(
                tr(
                    "Google Drive was not mounted ({problem}). The lesson goes on, but checkpoints stay on "
                    "Colab's machine and are lost when the session ends.",
                    problem=problem,
                )
            )
    return False


def _room_on_drive() -> bool:
    free = shutil.disk_usage(_DRIVE_FOLDER / "MyDrive").free / 1e9
    if free < _DRIVE_GB:
        print(
            tr(
                "Google Drive has only {free:.1f} GB left, and a lesson's checkpoints take up to "
                "{wanted:.0f} GB. The lesson goes on, but checkpoints stay on Colab's machine and are lost "
                "when the session ends. Make room on Drive (its bin counts, too), then run from the top.",
                free=free, wanted=_DRIVE_GB,
            )
        )
    return free >= _DRIVE_GB


def _colab_secret(name: str) -> tuple[str | None, bool]:
    """(value, whether the secret exists but this notebook may not read it)."""
    try:
        from google.colab import userdata

        return userdata.get(name), False
    except Exception as problem:  # SecretNotFoundError, NotebookAccessError, TimeoutException: no common base
        return None, type(problem).__name__ == "NotebookAccessError"


def _kaggle_secret(name: str) -> str | None:
    try:
        from kaggle_secrets import UserSecretsClient

        return UserSecretsClient().get_secret(name)
    except Exception:  # not attached, or no internet in this session: the other places are still to be asked
        return None


def _somebody_can_type() -> bool:
    return "ipykernel" in sys.modules or bool(sys.stdin and sys.stdin.isatty())


def _where_to_put(name: str, place: str, refused: bool) -> Translated:
    if refused:
        return Translated(
            "The secret exists but this notebook may not read it: click the key icon on the left and switch "
            "on 'Notebook access' for {name}.",
            name=name,
        )
    if place == "colab":
        return Translated(
            "Click the key icon on the left, add a secret named {name} and switch on notebook access.",
            name=name,
        )
    if place == "kaggle":
        return Translated("Choose Add-ons > Secrets, add {name} and attach it to this notebook.", name=name)
    return Translated("Set the environment variable {name} before you start Jupyter.", name=name)


def _shown(folder: Path) -> str:
    """Relative where it lies below the current folder: shorter, and the same on every machine."""
    if not folder.is_relative_to(Path.cwd()):
        return str(folder)
    below = folder.relative_to(Path.cwd())
    return f"./{below}" if below.parts else "."
