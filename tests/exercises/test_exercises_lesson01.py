"""Every exercise of lesson 01: untouched, wrong in each known way, right; and the solution that is shown."""

import math
import re

import pytest

from lessonlib.exercises import lesson01
from lessonlib.runtime import _language as language

SOLUTIONS = {
    "scale": lesson01.solve_scale(),
    "count": lesson01.solve_count,
    "uniform": lesson01.solve_uniform,
    "padding": lesson01.solve_padding,
    "prompt": lesson01.solve_prompt,
    "epoch": lesson01.solve_epoch,
}

MISTAKES = [
    ("scale", 32, "only 32/16 = 2"),
    ("scale", 4, "is the factor alpha/r"),
    ("scale", 128, "factor of 8 at r = 16"),
    ("count", lambda i, o, r: i * o, "is the size of W"),
    ("count", lambda i, o, r: r * i, "only one of the two"),
    ("count", lambda i, o, r: r + i + o, "it should be 32,768"),
    ("uniform", lambda loss, v: loss > math.log10(v), "natural logarithms"),
    ("uniform", lambda loss, v: loss > math.log2(v), "natural logarithms"),
    ("uniform", lambda loss, v: loss > v, "a uniform guess has a loss of 11.76"),
    ("padding", lambda ids, n: ids[:n], "as long as the row"),
    ("padding", lambda ids, n: ids, "still carries loss"),
    ("padding", lambda ids, n: [-100 if i == 3 else i for i in ids], "still carries loss"),
    ("padding", lambda ids, n: [-100 if i in (2, 3) else i for i in ids], "never learn to stop"),
    ("padding", lambda ids, n: [-100] + ids[1:n] + [-100] * (len(ids) - n), "the labels should be"),
    ("prompt", lambda q: f"Human: {q} Assistant: ", "space at the end"),
    ("prompt", lambda q: "Human: {question} Assistant:", "question is missing"),
    ("prompt", lambda q: f"User: {q} Assistant:", "training text starts with"),
    ("prompt", lambda q: 3, "should return a string"),
    ("epoch", lambda n, b, a, s: s, "Return two numbers"),
    ("epoch", lambda n, b, a, s: (math.ceil(n / b), 0.74), "number of batches"),
    ("epoch", lambda n, b, a, s: (n // (b * a), s * b * a / n), "takes 14 updates"),
    ("epoch", lambda n, b, a, s: (math.ceil(n / b / a), s / 14), "stops at epoch 0.74"),
]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_shown_solution_is_right(name):
    exercise = getattr(lesson01, name)
    feedback = exercise.check(SOLUTIONS[name])
    assert feedback.status == "right", feedback
    assert exercise.solve.__name__ in str(exercise.solution())


def test_untouched_starting_points_count_as_not_attempted():
    def untouched(*_):
        return ...  # your code here

    for exercise in lesson01.ALL:
        answer = ... if exercise.start is None else untouched
        assert exercise.check(answer).status == "not attempted"


@pytest.mark.parametrize(("name", "answer", "message"), MISTAKES)
def test_each_mistake_gets_its_own_message(name, answer, message):
    feedback = getattr(lesson01, name).check(answer)
    assert feedback.status == "wrong"
    assert re.search(message, str(feedback)), feedback


def test_everything_is_said_in_both_languages():
    for exercise in lesson01.ALL:
        english = exercise.help().html
        language.use("vi")
        assert exercise.help().html != english
        language.use("en")
        for words in (exercise.title, exercise.praise, *exercise.hints):
            assert words["vi"] != words["en"] and all(words.texts.values())
