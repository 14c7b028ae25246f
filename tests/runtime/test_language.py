"""The two languages: messages from the catalogue, errors that keep both, and the catalogues' own check."""

import ast
import pickle
import shutil
from pathlib import Path

import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError, Translated, joined, tr
from lessonlib_course import cli, messages

ROOT = Path(__file__).parents[2]
PO = "lessonlib/runtime/locale/vi/LC_MESSAGES/lessonlib.po"


@pytest.fixture
def course(tmp_path):
    """A package of one file with one message, and its catalogue."""
    folder = tmp_path / "lessonlib"
    (tmp_path / PO).parent.mkdir(parents=True)
    (folder / "rooms.py").write_text('raise LessonError("{file} is empty.", file=name)\n', encoding="utf-8")
    (tmp_path / PO).write_text('msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n', "utf-8")
    messages.update(tmp_path)
    return tmp_path


def translate(course, text):
    """Put `text` where the catalogue has no translation yet, and compile."""
    po = course / PO
    head, _, rest = po.read_text(encoding="utf-8").partition('msgid "{file} is empty."')
    rest = rest.replace('msgstr ""', f'msgstr "{text}"', 1)
    po.write_text(f'{head}msgid "{{file}} is empty."{rest}', encoding="utf-8")
    return messages.update(course)


def test_the_courses_catalogues_have_every_message_and_no_other():
    assert messages.problems(ROOT) == []


def test_a_message_speaks_the_current_language_and_keeps_both():
    language.use("vi")
    english = "{file} has no rows. Check that the file was saved or downloaded completely."
    message = Translated(english, file="a.csv")
    assert str(message) == message.vi == message["vi"] and message.vi.startswith("a.csv không có dòng nào")
    language.use("en")
    assert str(message) == message.en and message.en.startswith("a.csv has no rows")


def test_a_message_among_the_values_speaks_the_language_of_the_whole():
    cure = Translated("Mend that place and read again.")
    error = LessonError("{file}: broken JSON: {error}. {cure}", file="a.json", error="x", cure=cure)
    assert error.en == "a.json: broken JSON: x. Mend that place and read again."
    assert error.vi == "a.json: JSON hỏng: x. Hãy sửa chỗ đó rồi đọc lại."


def test_braces_without_values_are_letters():
    assert Translated("{'a': 1}").en == "{'a': 1}"


def test_messages_are_joined_language_by_language():
    both = joined("; ", [Translated("the line is blank"), Translated("8 bits")])
    assert both.vi == "dòng trống; 8 bit" and both.en == "the line is blank; 8 bits"


def test_an_error_survives_the_way_to_another_process():
    error = pickle.loads(pickle.dumps(LessonError("There is no file {source}.", source="a")))
    assert isinstance(error, LessonError) and error.en == "There is no file a."


def test_an_unknown_language_is_refused():
    language.use("en")
    with pytest.raises(LessonError, match="There is no language 'fr'"):
        language.use("fr")


def test_tr_is_the_text_itself():
    language.use("vi")
    assert tr("the line is blank") == "dòng trống"


def test_a_new_message_wants_a_translation_and_a_complete_catalogue_is_well(course):
    (problem,) = messages.problems(course)
    assert problem == "vi: no translation of '{file} is empty.' (lessonlib/rooms.py)"
    assert translate(course, "{file} trống.") == [] == messages.problems(course)


def test_other_placeholders_are_found(course):
    (problem,) = translate(course, "{tep} trống.")
    assert problem.startswith("vi: other placeholders than '{file} is empty.'")
    (problem,) = messages.problems(course)
    assert "other placeholders" in problem


def test_a_stale_message_is_found_and_goes_with_the_next_update(course):
    translate(course, "{file} trống.")
    (course / "lessonlib" / "rooms.py").write_text("", encoding="utf-8")
    assert messages.problems(course) == ["vi: nobody says '{file} is empty.'"]
    assert messages.update(course) == [] and "is empty" not in (course / PO).read_text(encoding="utf-8")


def test_a_catalogue_that_was_not_compiled_is_found(course):
    translate(course, "{file} trống.")
    po = course / PO
    po.write_text(po.read_text(encoding="utf-8").replace("trống", "rỗng"), encoding="utf-8")
    assert messages.problems(course) == ["vi: lessonlib.mo is not what lessonlib.po makes"]
    po.with_suffix(".mo").unlink()
    assert messages.problems(course) == ["vi: lessonlib.mo is not what lessonlib.po makes"]


def test_a_broken_or_missing_catalogue_is_named(course):
    language.use("en")
    (course / PO).write_text('msgid "a\n', encoding="utf-8")
    with pytest.raises(LessonError, match="lessonlib.po cannot be read"):
        messages.problems(course)
    shutil.rmtree((course / PO).parent)
    with pytest.raises(LessonError, match="There is no catalogue below"):
        messages.problems(course)


def test_the_command_checks_and_updates(course, monkeypatch, capsys):
    monkeypatch.chdir(course)
    monkeypatch.setattr("lessonlib_course.repository.find_root", lambda: course)
    assert cli.main(["course", "messages", "--check"]) == 1
    assert "no translation of" in capsys.readouterr().err
    assert cli.main(["course", "messages"]) == 1  # it comes in empty, and is to be filled in
    translate(course, "{file} trống.")
    assert cli.main(["course", "messages", "--check"]) == 0


def test_no_message_is_an_f_string():
    """Such a one is never looked up: Babel passes over it, and Vietnamese readers would get English."""
    found = []
    for folder in ("lessonlib", "lessonlib_course", "twins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.JoinedStr):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    found += [f"{path.name}:{node.lineno}"] if name in messages._SPEAKERS else []
    assert not found
