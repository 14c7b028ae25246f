"""placeholders: found in every spelling, filled alike in question and answer, and none left behind."""

import random

import pytest
from datasets import Dataset

from lessonlib.data import _placeholders as placeholders
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError

VALUES = {
    "Order Number": lambda draw: str(draw.randrange(10_000, 100_000)),
    "Delivery City": ["Hue", "Lyon", "Osaka", "Lima"],
    "Support Phone": "555-0142",
}


def rows(*pairs):
    return Dataset.from_list([{"instruction": said, "response": it, "intent": "x"} for said, it in pairs])


def told(frame):
    return [tuple(row) for row in frame.itertuples(index=False)]


# ---------------------------------------------------------------- find


def test_find_counts_names_columns_and_rows():
    data = rows(
        ("cancel {{Order Number}}", "{{Order Number}} or {{Order Number}}, see {{Website URL}}"),
        ("no placeholder", "{{Order Number}}"),
        ("none", None),
    )
    found = placeholders.find(data)
    assert list(found.columns) == ["name", "column", "count", "rows", "malformed"]
    assert told(found) == [
        ("Order Number", "response", 3, 2, 0),
        ("Order Number", "instruction", 1, 1, 0),
        ("Website URL", "response", 1, 1, 0),
    ]
    assert told(placeholders.find(data, ["instruction"])) == [("Order Number", "instruction", 1, 1, 0)]
    assert len(placeholders.find(rows(("a", "b")))) == 0


@pytest.mark.parametrize("written", [
    "{{Order Number}", "{Order Number}}", "{{ Order Number }}", "{{{Order Number}}}", "{ {Order Number} }",
    "{{order_number }}", "{Order Number}", "{{Order  Number}}",
])  # fmt: skip
def test_malformed_ones_are_found_and_filled(written):
    data = rows(("track {{Order Number}}", f"Order {written}."))
    (in_answer,) = [row for row in told(placeholders.find(data)) if row[1] == "response"]
    spelt_so = written in ("{{Order  Number}}",)
    assert in_answer == ("Order Number", "response", 1, 1, 0 if spelt_so else 1)
    filled, _ = placeholders.fill(data, {"Order Number": "12345"})
    assert filled[0]["response"] == "Order 12345."


def test_neighbours_are_two_and_a_single_brace_is_one_only_if_its_name_is_known():
    data = rows(
        ("{{Currency}}{{Amount}}", r"a set {1, 2}, \frac{a}{b}, an f-string {name}"),
        ("{{Amount}} {{Currency}}", '{"a": 1}'),
    )
    found = placeholders.find(data)
    assert told(found) == [("Amount", "instruction", 2, 2, 0), ("Currency", "instruction", 2, 2, 0)]
    filled, _ = placeholders.fill(data, {"Currency": "$", "Amount": "10"})
    assert filled["instruction"][:] == ["$10", "10 $"] and filled["response"][:] == data["response"][:]


@pytest.mark.parametrize("broken", ["{{Order Number", "Order Number}}", "{{}}", "{{  }}", "{{a\nb}}"])
def test_double_braces_around_nothing_are_found_and_never_pass(broken):
    data = rows((broken, "a"), ("b", "c"))
    (found,) = [row for row in told(placeholders.find(data)) if row[1] == "instruction"]
    assert found[0] == placeholders._UNPAIRED and found[3] == 1 and found[4] == found[2] > 0
    filled, report = placeholders.fill(data, {"Order Number": "1"})
    assert filled["instruction"][:] == ["b"]
    assert report.removed["line"].tolist() == [1]
    assert report.removed["reason"][0].startswith("instruction: no value for")


def test_nested_json_is_taken_for_one():
    """The limit that the docstring names: better a row too few than a brace in an answer."""
    found = placeholders.find(rows(("a", '{"json": {"a": 1}}')))
    assert told(found) == [('"a": 1', "response", 1, 1, 1)]


def test_left_over_shows_the_first_one_as_written():
    assert placeholders.left_over("a {{ Order Number} b {{c}}") == "{{ Order Number}"
    assert placeholders.left_over("a }} b") == "}}"
    assert placeholders.left_over("{name} and {1, 2}") is None


# ---------------------------------------------------------------- fill


def test_the_number_in_the_question_is_the_number_in_the_answer():
    answer = "{{order number}}: {{Order Number}}, call {{Support Phone}}"
    data = rows(*[("cancel {{Order Number}}", answer)] * 40)
    filled, report = placeholders.fill(data, VALUES)
    drawn = set()
    for row in filled:
        number = row["instruction"].removeprefix("cancel ")
        assert number.isdigit() and row["response"] == f"{number}: {number}, call 555-0142"
        assert row["slots"] == {"Order Number": number, "Delivery City": ""}  # a constant is no slot
        assert row["template"] == "cancel {{Order Number}}" and row["intent"] == "x"
        drawn.add(number)
    assert len(drawn) > 30  # another one for each row
    assert (filled["source_line"][:], len(report.removed)) == (list(range(1, 41)), 0)
    assert len(report.changed) == 80


def test_a_value_that_only_the_answer_holds_is_no_slot():
    filled, _ = placeholders.fill(rows(("where?", "In {{Delivery City}}.")), VALUES)
    assert filled[0]["slots"] == {"Order Number": "", "Delivery City": ""}
    assert filled[0]["response"].removeprefix("In ").removesuffix(".") in VALUES["Delivery City"]


def test_what_is_drawn_depends_on_seed_and_row_only():
    data = rows(("{{Order Number}} to {{Delivery City}}", "a"), ("{{Order Number}}", "b"))
    once, again = (placeholders.fill(data, VALUES)[0] for _ in range(2))
    assert once[:] == again[:]
    fewer = placeholders.fill(data, {"Order Number": VALUES["Order Number"], "Delivery City": "Hue"})[0]
    assert fewer["instruction"][1] == once["instruction"][1]
    dropped = placeholders.fill(data, {"Order Number": VALUES["Order Number"]})[0]
    assert dropped["source_line"][:] == [2] and dropped["instruction"][0] == once["instruction"][1]
    other = placeholders.fill(data, VALUES, seed=1)[0]
    assert other["instruction"][1] != once["instruction"][1]


def test_rows_with_an_unknown_name_go_with_row_and_name():
    data = rows(("a", "b"), ("c", "to {{Order Number}} by {{Live Chat}}"), ("{{Live Chat}}", "d"))
    filled, report = placeholders.fill(data, VALUES)
    assert filled["instruction"][:] == ["a"]
    assert report.removed["line"].tolist() == [2, 3]
    assert report.removed["reason"].tolist() == [
        "response: no value for {{Live Chat}}", "instruction: no value for {{Live Chat}}"
    ]
    assert report.removed["response"].tolist() == ["to {{Order Number}} by {{Live Chat}}", "d"]
    assert report.counts == (("placeholders", 3, 0, 2),)
    language.use("vi")
    assert report.removed["reason"][0] == "response: chưa có giá trị cho {{Live Chat}}"


def test_the_lines_of_an_earlier_step_are_kept():
    data = rows(("{{Order Number}}", "a"), ("{{Other}}", "b")).add_column("source_line", [17, 20])
    filled, report = placeholders.fill(data, {"Order Number": "1"})
    assert filled["source_line"][:] == [17] and report.removed["line"].tolist() == [20]
    assert "slots" not in filled.column_names  # nothing was drawn
    assert filled["template"][:] == ["{{Order Number}}"]


@pytest.mark.parametrize(("value", "message"), [
    ("", "The value '' of 'Order Number' cannot be used"),
    ("{{x}}", "cannot be used: give a text that is not blank and has no braces"),
    ([], "must be a string, a list of strings that is not empty, or a function"),
    (7, "but it is 7"),
    (["ok", 7], "The value 7 of 'Order Number' cannot be used"),
    (lambda draw: draw.random(), "of 'Order Number' cannot be used"),
])  # fmt: skip
def test_values_that_cannot_be_put_into_text_are_refused(value, message):
    with pytest.raises(LessonError, match=message):
        placeholders.fill(rows(("{{Order Number}}", "a")), {"Order Number": value})


def test_wrong_data_is_refused():
    data = rows(("{{A}}", "b"))
    for run in (placeholders.find, lambda it, columns=None: placeholders.fill(it, {}, columns=columns)):
        with pytest.raises(LessonError, match="no column 'question'; the data has: instruction, response"):
            run(data, columns=("question",))
        with pytest.raises(LessonError, match="Row 1: the column 'n' must hold strings, but holds int"):
            run(Dataset.from_dict({"n": [1]}), columns=("n",))
    with pytest.raises(LessonError, match="Nothing is left of 1 rows"):
        placeholders.fill(data, {})
    filled, _ = placeholders.fill(data, {"A": ["1"]})
    with pytest.raises(LessonError, match="already has a column 'template'"):
        placeholders.fill(filled, {"A": ["1"]})


def test_a_function_gets_a_generator_of_its_own():
    given = []
    placeholders.fill(rows(("{{A}}", "{{A}}")), {"A": lambda draw: given.append(draw) or "1"})
    assert given and all(isinstance(it, random.Random) for it in given)
    assert len({it.random() for it in given}) == 1  # the same stream at every place of the row
