"""Exercises: check, hint, solution. The mechanism, and one module or folder of exercises for each lesson.

A check never crashes the notebook; what a learner's mistake means is said by the exercise itself.
"""

__all__ = [
    "lesson01",
    "lesson02",
    "lesson03",
    "lesson04",
]
