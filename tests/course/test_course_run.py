import os
import signal
import subprocess
import sys
import time

import pytest

from lessonlib.runtime._language import LessonError
from lessonlib_course import cli, execute, report, run

BAD = """# %% [markdown] id="title" lang="vi"
# # Hỏng
# %% [markdown] id="title" lang="en"
# # Broken
# %% id="setup"
# %% id="first"
import os, time
from pathlib import Path
work = Path(os.environ["LESSONLIB_WORK"])
print("first")
# %% id="second"
{}
"""


@pytest.fixture
def lesson(tiny_course):
    """Makes lesson 03 with this code in its last cell, and gives the course."""

    def make(code):
        (tiny_course / "lessons" / "03_bad.py").write_text(BAD.format(code), encoding="utf-8")
        return tiny_course

    return make


def test_a_run_leaves_notebook_report_metrics_and_table(tiny_course, capsys, monkeypatch):
    monkeypatch.chdir(tiny_course)
    assert cli.main(["run", "01", "--lang", "en", "--profile", "rehearsal"]) == 0
    printed = capsys.readouterr()
    out = tiny_course / "runs" / "01-en"
    assert "split    base  tuned\n-------  ----  -----\nheld-in  0.00  1.00\n" in printed.out
    for name in ("01_tiny.ipynb", "01_tiny.html", "metrics.json"):
        assert f" {out / name}\n" in printed.out and (out / name).is_file()
    assert "4/4" in printed.err and "01 en Noise" in printed.err
    page = (out / "01_tiny.html").read_text(encoding="utf-8")
    assert "started" in page and "'done'" in page and "<math" in page and 'lang="en"' in page
    assert "<script" not in page


def test_the_folder_and_the_language_are_chosen(tiny_course, tmp_path):
    result = run.run(tiny_course, "1", language="vi", profile="rehearsal", out=tmp_path / "o")
    assert result.notebook == tmp_path / "o" / "01_tiny.ipynb"
    assert "xong" in result.notebook.read_text(encoding="utf-8")


def test_a_failing_cell_ends_with_status_1_and_the_notebook_up_to_there(lesson, capsys, monkeypatch):
    root = lesson("def f(x):\n    return 1 / x\nf(0)")
    monkeypatch.chdir(root)
    assert cli.main(["run", "3", "--lang", "en", "--profile", "rehearsal"]) == 1
    error = capsys.readouterr().err
    assert "Stopped in code cell [3] of 3 (id 'second'), under \"Broken\":" in error
    assert "  line 3: f(0)\n  ZeroDivisionError: division by zero\n" in error
    assert "Traceback" not in error and "\x1b" not in error
    saved = (root / "runs" / "03-en" / "03_bad.ipynb").read_text(encoding="utf-8")
    assert f"up to there: {root / 'runs' / '03-en' / '03_bad.ipynb'}" in error and '"first\\n"' in saved


def test_a_long_error_is_cut(lesson):
    root = lesson("raise ValueError('\\n'.join(f'row {n}' for n in range(99)))")
    with pytest.raises(execute.CellError, match=r"ValueError: row 0\n  row 1\n  …\n  row 90\n") as caught:
        run.run(root, "3", language="en", profile="rehearsal")
    assert "row 98" in caught.value.vi and "row 50" not in caught.value.vi


def test_a_dead_kernel_is_said_to_be_dead(lesson):
    root = lesson("os.kill(os.getpid(), 9)")
    with pytest.raises(execute.CellError, match=r"cell \[3\] of 3[\s\S]*The kernel died"):
        run.run(root, "3", language="en", profile="rehearsal")


def test_a_cell_over_its_limit_is_stopped(lesson):
    root = lesson("time.sleep(60)")
    with pytest.raises(execute.CellError, match=r"took longer than 1 seconds[\s\S]*--cell-limit"):
        run.run(root, "3", language="en", profile="rehearsal", limit=1)


def test_ctrl_c_ends_the_run_and_its_kernel(lesson):
    root = lesson("(work / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)")
    command = [sys.executable, "-m", "lessonlib_course.cli", "run", "3", "--lang", "en"]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    pid = root / "runs" / "03-en" / "work" / "pid"
    wait_for(lambda: pid.is_file() and pid.read_text())
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error.endswith("lessonlib: stopped.\n") and "Traceback" not in error
    wait_for(lambda: not alive(int(pid.read_text())))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_that_was_killed_goes_on_in_its_folder_and_a_finished_one_starts_anew(lesson, capsys):
    root = lesson(
        "import json\nseen = work / 'seen'\nseen.open('a').write('x')\n"
        "if seen.read_text() == 'x' and 'KILL' in os.environ:\n    time.sleep(60)\n"
        "(work / 'metrics.json').write_text(json.dumps({'table': {'columns': ['a'], 'rows': []}}))"
    )
    seen = root / "runs" / "03-vi" / "work" / "seen"
    command = [sys.executable, "-m", "lessonlib_course.cli", "run", "3", "--lang", "vi"]
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "KILL": "1"}, stderr=subprocess.DEVNULL)
    wait_for(lambda: seen.is_file() and seen.read_text())
    process.kill()
    process.wait()
    run.run(root, "3", language="vi")
    assert seen.read_text() == "xx" and "Chạy tiếp lần bị ngắt" in capsys.readouterr().out
    run.run(root, "3", language="vi")
    assert seen.read_text() == "x"


@pytest.mark.parametrize(
    ("mark", "kept"),
    [
        ('{"running": "a"}', True),
        ('{"running": "b"}', False),
        ('{"running": null}', False),
        ("{}", False),
        ("{", False),
    ],
)
def test_only_the_same_killed_run_keeps_its_work_folder(tmp_path, mark, kept):
    (run.prepare(tmp_path, "a") / "checkpoint").touch()
    (tmp_path / ".lessonlib-run.json").write_text(mark, encoding="utf-8")
    assert (run.prepare(tmp_path, "a") / "checkpoint").exists() is kept


def test_a_folder_that_no_run_made_is_not_emptied(tiny_course, tmp_path):
    kept = tmp_path / "mine" / "work" / "thesis.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("years", encoding="utf-8")
    with pytest.raises(LessonError, match="was not made by lessonlib run, so it is not emptied"):
        run.run(tiny_course, "1", language="en", out=tmp_path / "mine")
    assert kept.read_text(encoding="utf-8") == "years"


def test_a_lesson_without_metrics_is_named(lesson):
    with pytest.raises(LessonError, match="03_bad ran to its end but wrote no metrics.json"):
        run.run(lesson("1"), "3", language="en", profile="rehearsal")


@pytest.mark.parametrize("content", ["{", "{}", '{"table": {"columns": ["a"], "rows": [["1", "2"]]}}', "[]"])
def test_metrics_without_a_table_are_refused(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LessonError, match="has no table with columns and rows"):
        run.table_text(path)


def test_an_unknown_lesson_is_one_line_and_status_1(tiny_course, capsys, monkeypatch):
    monkeypatch.chdir(tiny_course)
    assert cli.main(["run", "9", "--lang", "en"]) == 1
    assert capsys.readouterr().err == "lessonlib: There is no lesson '9'. There are: 01_tiny, 02_second.\n"
    assert cli.main(["run", "9", "--lang", "vi"]) == 1
    assert capsys.readouterr().err == "lessonlib: Không có bài '9'. Hiện có: 01_tiny, 02_second.\n"


def test_the_kernels_environment_follows_the_profile(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    made = {profile: execute.environment("en", tmp_path, profile) for profile in ("auto", "rehearsal", "t4")}
    assert [made[profile].get("HF_HUB_OFFLINE") for profile in made] == [None, "1", None]
    assert [made[profile].get("OMP_NUM_THREADS") for profile in made] == ["1", "1", None]
    assert made["t4"]["LESSONLIB_PROFILE"] == "t4" and made["t4"]["LESSONLIB_HEADLESS"] == "1"
    assert made["t4"]["LESSONLIB_WORK"] == str(tmp_path) and made["t4"]["LESSONLIB_LANG"] == "en"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert execute.environment("en", tmp_path, "auto")["OMP_NUM_THREADS"] == "2"


def test_formulas_become_mathml_and_unknown_ones_stay_readable():
    from nbformat import v4

    prose = v4.new_markdown_cell("A $x^2$ and\n\n$$\\frac{1}{$$\n\n`$5`")
    page = report.to_html(v4.new_notebook(cells=[prose]), title="T", language="vi")
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in page
    assert "<code>\\frac{1}{</code>" in page and "<code>$5</code>" in page and "<title>T</title>" in page
