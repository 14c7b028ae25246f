"""call_charts: the counts in the cells are those of the report; labels in both languages."""

import pandas as pd
import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.views import _call_charts as call_charts


def rows(*turns):
    """(wanted names, called names, error) as a report."""
    return pd.DataFrame(
        {
            "expected": [{"name": name, "arguments": {}} for name in wanted],
            "got": [{"name": name, "arguments": {}} for name in got],
            "error": error,
        }
        for wanted, got, error in turns
    )


REPORT = rows(
    ("a", "a", None),
    ("a", "a", "value"),
    ("a", "b", "name"),
    ("a", "", "no_call"),
    ("b", "", "unreadable"),
    ("b", ["invented"], "name"),
    ("ab", "ba", None),
    ("ab", "cb", "name"),  # b belongs to b, so c came for a
    ("ab", "b", "call_count"),
    ("a", "aa", "call_count"),
    ("", "", None),
    ("", "a", "called_without_need"),
    ("", "", "unreadable"),
)


def cells(figure):
    axes = figure.axes[0]
    rows, columns = (
        [label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    places = [(note.get_position(), note.get_text()) for note in axes.texts]
    return {(rows[int(y)], columns[int(x)]): shown for (x, y), shown in places}


def test_each_cell_counts_what_was_wanted_and_what_came():
    assert cells(call_charts.confusion(REPORT)) == {
        ("a (8)", "a"): "4", ("a (8)", "b"): "1", ("a (8)", "no call"): "2", ("a (8)", "another name"): "1",
        ("b (5)", "b"): "3", ("b (5)", "unreadable"): "1", ("b (5)", "another name"): "1",
        ("no call (4)", "no call"): "1", ("no call (4)", "a"): "2", ("no call (4)", "unreadable"): "1",
    }  # fmt: skip


def test_the_diagonal_is_framed_and_unused_columns_are_left_out():
    axes = call_charts.confusion(rows(("b", "b", None), ("a", "b", "name"), ("", "", None))).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "no call"]
    assert [frame.get_xy() for frame in axes.patches] == [(at - 0.5, at - 0.5) for at in range(3)]
    assert axes.images[0].get_array().tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_labels_are_in_both_languages():
    axes = call_charts.confusion(REPORT).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("tool that was wanted (times)", "tool that was called")
    language.use("vi")
    axes = call_charts.confusion(REPORT).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("công cụ cần gọi (số lần)", "công cụ được gọi")
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "a", "b", "không gọi", "không đọc được", "tên khác"
    ]  # fmt: skip


def test_fourteen_tools_have_room():
    names = [f"get_exchange_rate_{number}" for number in range(14)]
    report = rows(*(([name], [name], None) for name in names))
    figure = call_charts.confusion(report)
    picture = figure._repr_png_()
    assert picture.startswith(b"\x89PNG") and b"matplotlib" not in picture
    width = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in zip(width, width[1:], strict=False))
    box = figure.axes[0].get_window_extent()
    assert min(box.width, box.height) / 15 > 25  # pixels a cell
    assert min(label.x0 for label in width) >= 0


def test_the_figure_stays_out_of_pyplot():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    call_charts.confusion(REPORT)
    assert pyplot.get_fignums() == before


def test_what_is_no_report_is_refused():
    with pytest.raises(LessonError, match="takes a table of tools.report, this has 0 rows"):
        call_charts.confusion(REPORT.iloc[:0])
    with pytest.raises(LessonError, match="this has 1 rows and the columns \\['id'\\]"):
        call_charts.confusion(pd.DataFrame({"id": [1]}))
    language.use("vi")
    with pytest.raises(LessonError, match="cần bảng của tools.report, đang có 1 dòng"):
        call_charts.confusion(pd.DataFrame({"id": [1]}))
