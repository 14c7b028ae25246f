import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib_course import source

TITLE = '# %% [markdown] id="title" lang="vi"\n# # Bài\n# %% [markdown] id="title" lang="en"\n# # Lesson\n'
SETUP = '# %% id="setup"\n'
WHY_VI = '# %% [markdown] id="why" lang="vi"\n# vì\n'
WHY_EN = '# %% [markdown] id="why" lang="en"\n# why\n'


@pytest.fixture
def parse(tmp_path):
    def parse(text):
        path = tmp_path / "01_x.py"
        path.write_text(text, encoding="utf-8")
        return source.parse(path)

    return parse


def test_a_lesson_has_code_once_and_prose_in_both_languages(tiny_course):
    lesson = source.parse(source.find(tiny_course, "1"))
    assert (lesson.number, lesson.stem) == ("01", "01_tiny")
    assert (lesson.title("vi"), lesson.title("en")) == ("Bài 1. Bé xíu", "Lesson 1. Tiny")
    assert [cell.id for cell in lesson.cells] == ["title", "setup", "noise", "noisy", "timed", "shown"]
    noise, timed = lesson.cells[2], lesson.cells[4]
    assert noise.prose == {"vi": "## Ồn ào\nCông thức $a^2$.", "en": "## Noise\nA formula $a^2$."}
    assert (noise.code, noise.line) == (None, 13)
    assert timed.tags == ("timed",) and timed.prose == {} and timed.code.startswith("print(")


def test_a_code_cell_keeps_blank_lines_magics_and_indentation(parse):
    lesson = parse(TITLE + SETUP + '# %% id="f"\n# %matplotlib inline\ndef f():\n    return 1\n\n\nf()\n')
    assert lesson.cells[2].code == "%matplotlib inline\ndef f():\n    return 1\n\n\nf()"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# %%\n1\n", r"01_x\.py:6: this cell has no id"),
        ('# %% id="a b"\n1\n', r"01_x\.py:6: the id 'a b' is not valid"),
        (f'# %% id="{"a" * 65}"\n1\n', r":6: the id 'a{65}' is not valid"),
        ('# %% id="a"\n1\n# %% id="a"\n2\n', r":8: the id 'a' is already used in line 6"),
        (WHY_VI + WHY_EN + '# %% id="why"\n2\n', r":10: the id 'why' is already used in line 6"),
        (WHY_VI, r":6: the prose cell 'why' lacks 'en'"),
        (WHY_EN, r":6: the prose cell 'why' lacks 'vi'"),
        (WHY_EN + WHY_VI, r":6: the prose cell 'why' lacks 'vi'.*follow each other, \"vi\" first"),
        (WHY_VI + '# %% id="a"\n1\n' + WHY_EN, r":6: the prose cell 'why' lacks 'en'"),
        (WHY_VI + WHY_EN.replace("why", "other"), r":6: the prose cell 'why' lacks 'en'"),
        (WHY_VI + WHY_VI, r":6: the prose cell 'why' lacks 'en'"),
        (WHY_VI + WHY_EN.replace("# why\n", "#\n"), r":8: the prose cell 'why' is empty in 'en'"),
        (WHY_VI.replace('"vi"', '"fr"'), r":6: the prose cell 'why' must say lang"),
        ('# %% [markdown] id="why"\n# x\n', r":6: the prose cell 'why' must say lang"),
        ('# %% id="a" colour="red"\n1\n', r":6: the cell's header has colour.*Known here: id, tags"),
        ('# %% id="a" lang="vi"\n1\n', r":6: the cell's header has lang"),
        ('# %% [raw] id="a"\n# x\n', r":6: a cell is code or \[markdown\]"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_and_line(parse, text, message):
    with pytest.raises(LessonError, match=message):
        parse(TITLE + SETUP + text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\n" + TITLE + SETUP, r":2: text before the first cell"),
        ("", r":1: the first cell must be prose"),
        (TITLE + SETUP + '# %% id="a"\nx = """\n# %% id="b"\n"""\n', "inside a string"),
        (SETUP + TITLE, r":1: the first cell must be prose that opens with the title"),
        (TITLE.replace("# # Lesson", "# Lesson") + SETUP, r":1: the first cell must be prose"),
        (TITLE, r":1: the first code cell must have id=\"setup\""),
        (TITLE + '# %% id="a"\n1\n' + SETUP, r":5: the first code cell must have id=\"setup\""),
        (TITLE + SETUP + "import os\n", r":5: the first code cell must have id=\"setup\" and no code"),
    ],
)
def test_a_mistake_of_the_whole_is_named(parse, text, message):
    with pytest.raises(LessonError, match=message):
        parse(text)


def test_messages_come_in_vietnamese(parse):
    language.use("vi")
    with pytest.raises(LessonError, match=r"01_x\.py:6: ô văn bản 'why' thiếu 'en'"):
        parse(TITLE + SETUP + WHY_VI)


def test_an_unknown_lesson_lists_those_that_exist(tiny_course):
    assert source.find(tiny_course, "02_second").stem == "02_second"
    with pytest.raises(LessonError, match="no lesson '09'. There are: 01_tiny, 02_second"):
        source.find(tiny_course, "09")


def test_the_setup_cell_and_helpers_are_no_lessons(tiny_course):
    assert [path.stem for path in source.sources(tiny_course)] == ["01_tiny", "02_second"]
