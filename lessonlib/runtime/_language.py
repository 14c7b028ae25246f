"""Which language lessonlib speaks, its messages in both, and the one exception that speaks them.

Code cells are the same in the Vietnamese and the English notebook, so the language cannot be a line of
code. It is looked up where the notebook runs: an environment variable, the notebook's own metadata in Colab,
its path in Jupyter or VS Code, or the folder it lies in.

Code speaks English. What else a message says stands in a catalogue of the standard library's gettext,
`locale/<language>/LC_MESSAGES/lessonlib.po`, compiled to the .mo beside it by `lessonlib course messages`.
"""

import gettext
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

LANGUAGES = ("vi", "en")
VARIABLE = "LESSONLIB_LANG"
LOCALE = Path(__file__).parent / "locale"

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
        raise LessonError("There is no language {language!r}. Choose 'vi' or 'en'.", language=language)
    _chosen = language


def current() -> str:
    """The language of messages: what `use` chose, else LESSONLIB_LANG, else the notebook's, else "vi"."""
    global _chosen
    if _chosen is None:
        said = os.environ.get(VARIABLE, "")
        _chosen = said if said in LANGUAGES else (_of_colab_notebook() or _of_notebook_path() or "vi")
    return _chosen


def text(*, vi: str, en: str) -> str:
    """One of two texts, by the current language: for lessons, whose texts are in no catalogue."""
    return vi if current() == "vi" else en


class Translated:
    """One message in every language; `str` gives it in the current one, `message["vi"]` in another.

    Args:
        english: the text, with values in braces: Translated("{file} is empty.", file=file). Without values,
            braces are letters like others.
        values: what stands for the braces. A `Translated` among them speaks the language of the whole.
    """

    def __init__(self, english: str, /, **values: object) -> None:
        self.texts = {
            language: _filled(_translated(english, language), values, language) for language in LANGUAGES
        }

    @classmethod
    def of(cls, *, vi: str, en: str) -> "Translated":
        """A message whose texts are known already and stand in no catalogue."""
        made = cls.__new__(cls)
        made.texts = {"vi": vi, "en": en}
        return made

    @property
    def vi(self) -> str:
        return self.texts["vi"]

    @property
    def en(self) -> str:
        return self.texts["en"]

    def __getitem__(self, language: str) -> str:
        return self.texts[language]

    def __str__(self) -> str:
        return self.texts[current()]

    def __repr__(self) -> str:
        return f"Translated({self.en!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Translated) and self.texts == other.texts

    def __hash__(self) -> int:
        return hash(self.en)


def tr(english: str, /, **values: object) -> str:
    """The message in the current language; arguments as those of `Translated`."""
    return str(Translated(english, **values))


def joined(separator: str, messages: "list[Translated]") -> Translated:
    """Several messages as one, each language for itself."""
    return Translated.of(
        vi=separator.join(message.vi for message in messages),
        en=separator.join(message.en for message in messages),
    )


class LessonError(Exception):
    """A learner's mistake or a missing condition: says what, where and the cure, in both languages.

    Args:
        english: the message, as `Translated` takes it, or a `Translated`.
        values: what stands for its braces.

    Attributes:
        message: the `Translated`; `error.vi` and `error.en` are its two texts.
    """

    def __init__(self, english: str | Translated, /, **values: object) -> None:
        message = english if isinstance(english, Translated) else Translated(english, **values)
        super().__init__(message.vi, message.en)
        self.message = message

    @property
    def vi(self) -> str:
        return self.message.vi

    @property
    def en(self) -> str:
        return self.message.en

    def __str__(self) -> str:
        return str(self.message)

    def __reduce__(self) -> tuple:
        return type(self), (self.message,)


@cache
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.translation("lessonlib", LOCALE, [language], fallback=language == "en")


def _translated(english: str, language: str) -> str:
    return english if language == "en" or not english else _catalogue(language).gettext(english)


def _filled(template: str, values: Mapping[str, object], language: str) -> str:
    if not values:
        return template
    return template.format(**{
        name: value[language] if isinstance(value, Translated) else value for name, value in values.items()
    })


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
