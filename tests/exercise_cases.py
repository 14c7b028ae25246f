"""What every lesson's exercises have to fulfil; a lesson's test file hands in its exercises and answers."""

import re

from lessonlib.runtime import _language as language


def right(exercise, answer):
    """An answer that has to be taken as right."""
    feedback = exercise.check(answer)
    assert feedback.status == "right", feedback
    assert feedback.vi == exercise.praise["vi"] != feedback.en


def wrong(exercise, answer, message):
    """An answer that has to be taken as wrong, with a message that has `message` in it, in both languages."""
    feedback = exercise.check(answer)
    assert feedback.status == "wrong"
    assert re.search(message, str(feedback)), feedback
    assert feedback.vi != feedback.en


def shown_solution(exercise, solve):
    """The solution that is shown is a real function, and right."""
    assert exercise.solve is solve
    assert f"def {solve.__name__}(" in str(exercise.solution())
    right(exercise, solve)


def untouched(exercises):
    """Starting points, as the lesson gives them, count as not attempted."""

    def given(*_):
        return ...  # your code here

    def unwritten(*_):
        raise NotImplementedError

    for exercise in exercises:
        for answer in (given, unwritten, ..., None):
            assert exercise.check(answer).status == "not attempted"


def bilingual(exercises):
    """Titles in the lesson's order; titles, hints and praise in both languages; help in the one spoken."""
    for number, exercise in enumerate(exercises, start=1):
        assert exercise.title["en"].startswith(f"Exercise {number}")
        assert exercise.title["vi"].startswith(f"Bài tập {number}")
        for words in (exercise.title, exercise.praise):
            assert words["vi"] != words["en"] and all(words.texts.values())
        for hint in exercise.hints:
            # A hint may be nothing but code, which is the same in both.
            assert all(hint.texts.values()) and (
                hint["vi"] != hint["en"] or re.fullmatch(r"`[^`]+`\.?", hint["vi"])
            )
        assert any(hint["vi"] != hint["en"] for hint in exercise.hints)
        english = exercise.help().html
        language.use("vi")
        assert exercise.help().html != english
        language.use("en")
