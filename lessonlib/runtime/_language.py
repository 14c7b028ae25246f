"""Which language lessonlib speaks, and the one exception that speaks it.

Code cells are the same in the Vietnamese and the English notebook, so the language cannot be a line of
code. It is looked up where the notebook runs: an environment variable, the notebook's own metadata in Colab,
its path in Jupyter or VS Code, or the folder it lies in.
"""

import os
import sys
from pathlib import Path

LANGUAGES = ("vi", "en")
VARIABLE = "LESSONLIB_LANG"

_chosen: str | None = None


def use(language: str | None) -> None:
    """Speak this language from now on; `None` goes back to finding it out.

    Args:
        language: "vi", "en" or None.

    Raises:
        LessonError: for any other value.
    """
    global _chosen
    if language is not None and language not in LANGUAGES:
        raise LessonError(
            vi=f"Không có ngôn ngữ {language!r}. Hãy chọn 'vi' hoặc 'en'.",
            en=f"There is no language {language!r}. Choose 'vi' or 'en'.",
        )
    _chosen = language


def current() -> str:
    """The language of messages: what `use` chose, else LESSONLIB_LANG, else the notebook's, else "vi"."""
    global _chosen
    if _chosen is None:
        said = os.environ.get(VARIABLE, "")
        _chosen = said if said in LANGUAGES else (_of_colab_notebook() or _of_notebook_path() or "vi")
    return _chosen


def text(*, vi: str, en: str) -> str:
    """The message in the current language."""
    return vi if current() == "vi" else en


class LessonError(Exception):
    """A learner's mistake or a missing condition: says what, where and the cure, in both languages.

    Args:
        vi: the message in Vietnamese.
        en: the same in English.
    """

    def __init__(self, *, vi: str, en: str) -> None:
        super().__init__(vi, en)
        self.vi, self.en = vi, en

    def __str__(self) -> str:
        return text(vi=self.vi, en=self.en)

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), self.vi, self.en)


def _rebuild(kind: type[LessonError], vi: str, en: str) -> LessonError:
    """Unpickling an exception passes positional arguments; ours are keywords (worker processes need this)."""
    return kind(vi=vi, en=en)


def _of_colab_notebook() -> str | None:
    """Colab tells the kernel the notebook's JSON; the build stamped the language into its metadata."""
    if "google.colab" not in sys.modules:
        return None
    try:
        from google.colab import _message

        answer = _message.blocking_request("get_ipynb", timeout_sec=10)
        language = answer["ipynb"]["metadata"]["lessonlib"]["language"]
    except Exception:  # Colab's private API: any failure only means that we look elsewhere
        return None
    return language if language in LANGUAGES else None


def _of_notebook_path() -> str | None:
    """Jupyter names the notebook in JPY_SESSION_NAME, VS Code in the user namespace; else the folder."""
    candidates = [os.environ.get("JPY_SESSION_NAME", "")]
    main = sys.modules.get("__main__")
    candidates.append(str(getattr(main, "__vsc_ipynb_file__", "")))
    candidates.append(str(Path.cwd() / "notebook"))
    for candidate in candidates:
        folder = Path(candidate).parent.name
        if folder in LANGUAGES:
            return folder
    return None
