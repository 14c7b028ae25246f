"""What must not, and what has to be, in a repository that is about to be pushed; it uploads nothing.

Whatever is on the Hub was copied the minute it got there: a token in a file, or a pickle that runs code where
it is opened, cannot be called back.
"""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lessonlib.export._model_card import BUILT_WITH, NOTICE_FILE, check_name, is_llama, llama_notice
from lessonlib.export._saving import MARKER
from lessonlib.runtime._language import LessonError

Contents = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]

_CARD = "README.md"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_SAFE = (".safetensors", ".gguf")  # formats that hold numbers and text, whatever their first bytes are
_SCANNED = 64 * 2**20  # bytes at a file's start that are looked through: weights have their text there
_TOKENS = {
    "Hugging Face": re.compile(rb"hf_[A-Za-z0-9]{30,}"),
    "Weights & Biases": re.compile(
        rb"wandb_v1_\w{20,}|(?:wandb|WANDB|api_?key|API_?KEY|password)[^\n]{0,40}?\b[0-9a-f]{40}\b"
    ),
}
_SECRET_NAMES = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$")
_BLANK_FORM = "[More Information Needed]"  # what peft and huggingface_hub leave to be filled in


def listed(contents: Contents) -> dict[str, Path]:
    """The files to be pushed, by their path in the repository, in order.

    Args:
        contents: a folder, or {path in the repository: folder or file}, "." for its root. Hidden files and
            folders, __pycache__ and lessonlib's own marker are left out.

    Raises:
        LessonError: nothing there; two files for one place; a link that leads out of its folder.
    """
    sources = contents if isinstance(contents, Mapping) else {".": contents}
    found: dict[str, Path] = {}
    for place, source in sources.items():
        for name, path in _below(Path(source)).items():
            target = "/".join(part for part in (*Path(place).parts, *Path(name).parts))
            if target in found:
                raise LessonError(
                    "Two files want the place {target}: {found} and {path}. Leave one out.",
                    target=target, found=found[target], path=path,
                )
            found[target] = path
    return dict(sorted(found.items()))


def check(files: Mapping[str, Path], repo_id: str, *, private: bool, secrets: tuple[str, ...] = ()) -> None:
    """See that these files may be published under this name.

    Args:
        files: from `listed`.
        repo_id: "owner/name".
        private: whether only the owner will see it; what a licence asks of those who distribute is checked
            where others will.
        secrets: more texts than the environment's tokens and keys that must not be in a file.

    Raises:
        LessonError: a name that the Hub does not take; a pickle; a token in a file (its first 64 MiB); no
            model card, one without licence, an empty form; what a Llama licence asks and is missing.
    """
    _check_repo_id(repo_id)
    known = {value for name, value in os.environ.items() if _SECRET_NAMES.search(name) and len(value) >= 16}
    for name, path in files.items():
        _check_pickle(name, path)
        _check_tokens(name, path, known | set(secrets))
    licence = _check_card(files)
    check_name(repo_id, licence)
    if is_llama(licence):
        _check_llama(files, licence, private)


def _below(source: Path) -> dict[str, Path]:
    if source.is_file():
        return {"": source}
    found = {}
    top = source.resolve()
    for path in sorted(source.rglob("*")):
        parts = path.relative_to(source).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if hidden or path.name == MARKER or not path.is_file():
            continue
        if not path.resolve().is_relative_to(top):
            raise LessonError(
                "{path} is a link that leads out of {source}. Put the file itself there, or delete it.",
                path=path, source=source,
            )
        found["/".join(parts)] = path
    if not found:
        raise LessonError(
            "There is no file to push in {source}. Export the model first (lessonlib.export).", source=source,
        )
    return found


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        good = repo_id.count("/") == 1
    except HFValidationError:
        good = False
    if not good:
        raise LessonError(
            "{repo_id!r} is no name for a repository. Write 'account/model': plain letters, digits, '-', "
            "'_', '.', no blanks, 96 characters at most.",
            repo_id=repo_id,
        )


def _check_pickle(name: str, path: Path) -> None:
    pickled = name.endswith(_PICKLES)
    if not pickled and not name.endswith(_SAFE):
        with path.open("rb") as file:
            start = file.read(2)
        pickled = start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")
        if zipfile.is_zipfile(path):  # what torch.save writes
            with zipfile.ZipFile(path) as inner:
                pickled |= any(member.endswith(".pkl") for member in inner.namelist())
    if pickled:
        raise LessonError(
            "{name} is a pickle: opening it runs whatever code is in it. Save weights as safetensors "
            "(save_pretrained), and delete this file from the folder.",
            name=name,
        )


def _check_tokens(name: str, path: Path, secrets: set[str]) -> None:
    with path.open("rb") as file:
        data = file.read(_SCANNED)
    found = [owner for owner, pattern in _TOKENS.items() if pattern.search(data)]
    if found or any(secret.encode() in data for secret in secrets if secret):
        owner = f" ({found[0]})" if found else ""
        raise LessonError(
            "There is a token or secret key in {name}{owner}. Take it out of the file, and revoke it on the "
            "service's settings page: it may have leaked elsewhere, too.",
            name=name, owner=owner,
        )


def _check_card(files: Mapping[str, Path]) -> str:
    """The licence that the card names."""
    if _CARD not in files:
        raise LessonError(
            "README.md, the model card, is missing in the repository's root. Make one with "
            "export.model_card and export.save_card.",
        )
    written = files[_CARD].read_text(encoding="utf-8")
    licence = _metadata(written).get("license")
    if not licence:
        raise LessonError(
            "README.md names no licence in its metadata (license: ...). Make it with "
            "export.model_card(licence=...).",
        )
    if _BLANK_FORM in written:
        raise LessonError(
            "README.md is a form that nobody filled in ({blank_form}). Fill it in, or make one with "
            "export.model_card.",
            blank_form=_BLANK_FORM,
        )
    return str(licence)


def _metadata(card: str) -> dict[str, Any]:
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        return ModelCard(card, ignore_metadata_errors=True).data.to_dict()
    except (YAMLError, ValueError):
        raise LessonError(
            "The metadata at the top of README.md (between two lines of ---) is no YAML. Mend it, or make a "
            "card with export.model_card.",
        ) from None


def _check_llama(files: Mapping[str, Path], licence: str, private: bool) -> None:
    written = files[_CARD].read_text(encoding="utf-8")
    missing = [] if BUILT_WITH in written else [f"'{BUILT_WITH}' (README.md)"]
    if not private:
        notice = files.get(NOTICE_FILE)
        if notice is None or llama_notice(licence) not in notice.read_text(encoding="utf-8"):
            missing.append(NOTICE_FILE)
        if not any(name.upper().startswith("LICENSE") for name in files):
            missing.append("LICENSE.txt")
    if missing:
        listed = ", ".join(missing)
        raise LessonError(
            "The licence {licence} (1.b) asks for what is missing: {listed}. export.model_card and "
            "export.save_card write README.md and NOTICE; copy LICENSE.txt from the base model's "
            "repository.",
            licence=licence, listed=listed,
        )
