"""The mechanism of exercises: three states, two languages, and no crash whatever the learner wrote.

The exercises themselves are tested in test_exercises_lesson01.py.
"""

import numpy as np
import pytest

from lessonlib.exercises._exercise import Exercise, Feedback, Wrong
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError, Translated


def solve_double(number):
    return number * 2  # twice: <b>


def start(*_):
    """The starting point."""
    return ...


def judge(answer, offset=0):
    if not callable(answer):
        answer.is_the_answer_a_function  # noqa: B018  what a judge may stumble over
    got = answer(3)
    if got == 3:
        raise Wrong(Translated.of(vi="Bạn trả về chính số đó.", en="You gave back the number <itself>."))
    if got != 6 + offset:
        raise Wrong(Translated.of(vi=f"Cần 6, không phải {got}.", en=f"It should be 6, not {got}."))


@pytest.fixture
def exercise():
    return Exercise(
        title=Translated.of(vi="Nhân đôi `number`.", en="Double `number`."),
        judge=judge,
        hints=(
            Translated.of(vi="Nghĩ đến `*`.", en="Think of `*`, not `<`."),
            Translated.of(vi="Nhân với 2.", en="Multiply by 2."),
        ),
        solve=solve_double,
        praise=Translated.of(vi="Đúng rồi: 6.", en="Indeed: 6."),
        start=start,
    )


def test_the_solution_is_right(exercise):
    feedback = exercise.check(exercise.solve)
    assert feedback.status == "right"
    assert str(feedback) == "✓ Right: Indeed: 6."
    language.use("vi")
    assert str(feedback) == "✓ Đúng: Đúng rồi: 6."


def test_untouched_answers_are_not_attempted(exercise):
    def lesson_stub(number):
        return ...

    def stub_with_docstring(number):
        """Says what to do."""
        return ...

    def not_yet(number):
        raise NotImplementedError

    for answer in (None, ..., start, lesson_stub, stub_with_docstring, not_yet):
        feedback = exercise.check(answer)
        assert feedback.status == "not attempted"
        assert str(feedback).startswith("○ Not attempted: You have not tried this yet.")
    assert exercise.check().status == "not attempted"
    language.use("vi")
    assert str(exercise.check(None)).startswith("○ Chưa làm: Bạn chưa làm bài này.")


def test_an_untouched_value_is_not_attempted_and_a_changed_one_is(exercise):
    valued = Exercise(
        exercise.title, lambda answer: None, exercise.hints, solve_double, exercise.praise, start=[0]
    )
    assert valued.check([0]).status == "not attempted"
    assert valued.check([1]).status == "right"
    arrays = Exercise(
        exercise.title, lambda a: None, exercise.hints, solve_double, exercise.praise, start=np.zeros(2)
    )
    assert arrays.check(np.zeros(2)).status == "right"  # no single truth value: must not crash


def test_a_particular_mistake_gets_its_message(exercise):
    feedback = exercise.check(lambda number: number)
    assert feedback.status == "wrong"
    assert str(feedback) == "✗ Wrong: You gave back the number <itself>."
    assert "It should be 6, not 9." in str(exercise.check(lambda number: number * 3))
    language.use("vi")
    assert str(feedback) == "✗ Chưa đúng: Bạn trả về chính số đó."


def test_what_the_lesson_gives_reaches_the_judge(exercise):
    assert exercise.check(lambda number: 7, offset=1).status == "right"
    assert exercise.check(lambda number: 6, offset=1).status == "wrong"


def test_an_exception_in_the_learners_code_names_type_message_and_line(exercise):
    def broken(number):
        table = {}
        return table["<key>"]  # the line that fails

    feedback = exercise.check(broken)
    line = broken.__code__.co_firstlineno + 2
    assert feedback.status == "wrong"
    assert "Your code stopped with KeyError: '<key>'" in feedback.en
    assert f'At line {line}: return table["<key>"]' in feedback.en
    assert f"Ở dòng {line}: return table" in feedback.vi
    assert "&lt;key&gt;" in feedback._repr_html_() and "<key>" not in feedback._repr_html_()


def test_an_exception_inside_a_library_names_the_learners_own_line(exercise):
    def broken(number):
        return np.zeros(2) @ np.zeros(3)

    assert f"At line {broken.__code__.co_firstlineno + 1}: return np.zeros(2)" in exercise.check(broken).en


def test_an_exception_without_a_message_and_endless_recursion(exercise):
    def empty(number):
        raise ValueError

    def endless(number):
        return endless(number)

    assert "stopped with ValueError\nAt line" in exercise.check(empty).en
    assert "RecursionError" in exercise.check(endless).en


def test_a_function_of_the_wrong_shape_is_feedback(exercise):
    feedback = exercise.check(lambda: 6)
    assert feedback.status == "wrong"
    assert "takes 0 positional arguments but 1 was given" in feedback.en


def test_an_answer_of_the_wrong_type_is_feedback(exercise):
    feedback = exercise.check(6)
    assert feedback.status == "wrong"
    assert "An answer of type int could not be checked: AttributeError" in feedback.en
    assert "Không chấm được câu trả lời kiểu int" in feedback.vi


def test_a_refusal_of_lessonlib_is_shown_in_both_languages(exercise):
    def refused(number):
        raise LessonError(Translated.of(vi="Thiếu cột.", en="A column is missing."))

    feedback = exercise.check(refused)
    assert (feedback.status, feedback.vi, feedback.en) == ("wrong", "Thiếu cột.", "A column is missing.")


def test_an_interrupt_is_not_swallowed(exercise):
    def stopped(number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exercise.check(stopped)


def test_feedback_shows_as_html_with_its_mark_and_breaks():
    for status, mark in (("not attempted", "○"), ("wrong", "✗"), ("right", "✓")):
        shown = Feedback(status, Translated.of(vi="một\nhai", en="a < `b`\nc"))._repr_html_()
        assert mark in shown and "a &lt; <code>b</code><br>c" in shown


def test_hints(exercise):
    assert str(exercise.hint()) == "Hint 1/2: Think of `*`, not `<`."
    assert str(exercise.hint(2)) == str(exercise.hint(9)) == "Hint 2/2: Multiply by 2."
    assert str(exercise.hint(0)) == str(exercise.hint(1))
    assert "<code>*</code>, not <code>&lt;</code>" in exercise.hint()._repr_html_()
    language.use("vi")
    assert str(exercise.hint()) == "Gợi ý 1/2: Nghĩ đến `*`."


def test_the_solution_shown_is_the_source_that_runs(exercise):
    shown = exercise.solution()
    assert str(shown) == "def solve_double(number):\n    return number * 2  # twice: <b>\n"
    assert "&lt;b&gt;" in shown._repr_html_()


def test_help_folds_hints_and_solution(exercise):
    shown = exercise.help()
    assert shown._repr_html_().count("<details>") == 3
    assert "<details open" not in shown._repr_html_()
    assert "Double <code>number</code>." in shown._repr_html_()
    assert "solve_double" not in str(shown) and ".hint()" in str(shown)
    language.use("vi")
    assert "Lời giải" in exercise.help()._repr_html_()
    assert str(exercise).startswith("Nhân đôi `number`.\nGọi .check(")
