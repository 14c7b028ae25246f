"""Where the shipped files lie (in a clone under data/, in a wheel inside the package), and the cache."""

import os
from pathlib import Path

from lessonlib.runtime._language import LessonError

PACKAGE = Path(__file__).resolve().parents[1]
CACHE = "LESSONLIB_CACHE"


def data_dir() -> Path:
    """The folder of the shipped datasets and twins.

    Raises:
        LessonError: where neither a wheel's copy nor a clone's data/ is there (a broken installation).
    """
    for folder in (PACKAGE / "_data", PACKAGE.parent / "data"):
        if folder.is_dir():
            return folder
    raise LessonError(
        "The data folder is missing beside {package}. Install lessonlib again as the README says.",
        package=PACKAGE,
    )


def dataset_dir(name: str) -> Path:
    """The folder of one shipped dataset, such as "ai_qa_vi".

    Raises:
        LessonError: for a name that is not shipped; it lists those that are.
    """
    return _child(data_dir(), name)


def twin_dir(name: str) -> Path:
    """The folder of one twin (a tiny pre-trained model of a real architecture), such as "bloom".

    Raises:
        LessonError: for a name that is not shipped; it lists those that are.
    """
    return _child(data_dir() / "twins", name)


def cache_dir() -> Path:
    """For what can be had again: the environment variable LESSONLIB_CACHE, else ~/.cache/lessonlib."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "lessonlib").expanduser()


def _child(parent: Path, name: str) -> Path:
    folder = parent / name
    if not (folder / "README.md").is_file():  # every dataset and every twin has its card
        known = ", ".join(sorted(card.parent.name for card in parent.glob("*/README.md")))
        raise LessonError(
            "There is no {name!r} in {name2}/. Shipped: {known}.", name=name, name2=parent.name, known=known,
        )
    return folder
