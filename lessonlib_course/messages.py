"""`lessonlib course messages`: keeps the catalogues of lessonlib's messages beside the code that speaks.

English stands in the code; `lessonlib/runtime/locale/<language>/LC_MESSAGES/lessonlib.po` has what
another language says instead, by gettext's rules, and the .mo beside it is what runs. Extraction, reading,
writing and compiling are Babel's.
"""

import io
import string
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lessonlib.runtime._language import LOCALE, LessonError

# The functions whose first argument is a message in English.
_SPEAKERS = (
    "LessonError", "Translated", "tr", "Wrong", "NotRead", "CellError", "ReadOnly", "MissingSecret",
)  # fmt: skip
_SPOKEN = ("lessonlib", "lessonlib_course", "twins")  # the folders whose messages the catalogues hold


def extracted(root: Path) -> dict[str, str]:
    """Every message in the code below `root`, and the first file that says it, as (English, file)."""
    from babel.messages.extract import extract

    found: dict[str, str] = {}
    for folder in _SPOKEN:
        for path in sorted((root / folder).rglob("*.py")):
            with path.open("rb") as file, warnings.catch_warnings():
                # Babel warns of every f-string among the values, too.
                warnings.simplefilter("ignore")
                keywords = dict.fromkeys(_SPEAKERS)
                for _, message, _, _ in extract("python", file, keywords, options={"encoding": "utf-8"}):
                    if isinstance(message, str) and message:
                        found.setdefault(message, path.relative_to(root).as_posix())
    return found


def problems(root: Path) -> list[str]:
    """What is wrong with the catalogues: a message without a translation or without code, other placeholders,
    a .mo that is not what its .po makes; one line each, none where all is well."""
    spoken, told = extracted(root), []
    for po in _catalogues(root):
        language = po.parent.parent.name
        catalogue = _read(po)
        translations = {message.id: str(message.string) for message in catalogue if message.id}
        for english, file in spoken.items():
            if not translations.get(english):
                told.append(f"{language}: no translation of {english[:80]!r} ({file})")
            elif _fields(english) != _fields(translations[english]):
                told.append(f"{language}: other placeholders than {english[:80]!r} ({file})")
        stale = [english for english in translations if english not in spoken]
        told += [f"{language}: nobody says {english[:80]!r}" for english in stale]
        compiled = po.with_suffix(".mo")
        if not compiled.is_file() or compiled.read_bytes() != _compiled(po):
            told.append(f"{language}: {compiled.name} is not what {po.name} makes")
    return told


def update(root: Path) -> list[str]:
    """Bring the catalogues up to the code: new messages come in empty, those that nobody says go; compile.

    Returns:
        What is left to do by hand, as `problems` says it.
    """
    from babel.messages.catalog import Catalog
    from babel.messages.pofile import write_po

    spoken = extracted(root)
    for po in _catalogues(root):
        before = {message.id: message.string for message in _read(po) if message.id}
        made = Catalog(locale=po.parent.parent.name, header_comment=_HEADER, fuzzy=False)
        for english, file in spoken.items():
            made.add(english, before.get(english, ""), locations=[(file, 0)])
        out = io.BytesIO()
        write_po(out, made, width=110, omit_header=False, include_lineno=False, sort_by_file=True)
        # Dates and versions would make a diff of every run.
        kept = [line for line in out.getvalue().decode().splitlines() if not line.startswith(_CHANGING)]
        po.write_text("\n".join(kept) + "\n", encoding="utf-8")
        po.with_suffix(".mo").write_bytes(_compiled(po))
    return problems(root)


_HEADER = "# What lessonlib says in this language; English stands in the code (`lessonlib course messages`)."
_ALWAYS = datetime(2026, 1, 1, tzinfo=UTC)  # else the head of a .mo would hold the minute of its making
# Fields of the head that change from run to run, or that nobody fills in; and flags of another formatting.
_CHANGING = tuple(f'"{field}' for field in (
    "POT-Creation-Date", "PO-Revision-Date", "Generated-By", "Last-Translator", "Language-Team",
    "Project-Id-Version", "Report-Msgid-Bugs-To",
)) + ("#, python-format",)


def _catalogues(root: Path) -> Iterator[Path]:
    folder = root / LOCALE.relative_to(LOCALE.parents[2])
    found = sorted(folder.glob("*/LC_MESSAGES/lessonlib.po"))
    if not found:
        raise LessonError("There is no catalogue below {folder}.", folder=folder)
    yield from found


def _read(po: Path):  # type: ignore[no-untyped-def]  # babel.messages.catalog.Catalog
    from babel.messages.pofile import PoFileError, read_po

    try:
        with po.open("rb") as file:
            return read_po(file, locale=po.parent.parent.name, abort_invalid=True)
    except PoFileError as error:
        raise LessonError("{file} cannot be read: {error}", file=po.name, error=error) from error


def _compiled(po: Path) -> bytes:
    from babel.messages.mofile import write_mo

    out, catalogue = io.BytesIO(), _read(po)
    catalogue.creation_date = catalogue.revision_date = _ALWAYS
    write_mo(out, catalogue)
    return out.getvalue()


def _fields(template: str) -> set[tuple[str, str, str | None]] | None:
    """(name, format, conversion) of each placeholder; None where braces are no placeholders."""
    try:
        parts = string.Formatter().parse(template)
        return {(name, spec or "", conversion) for _, name, spec, conversion in parts if name is not None}
    except ValueError:
        return None
