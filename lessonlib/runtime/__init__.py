"""Where a lesson runs and what follows from it: GPU, profile, number format, secrets, work folder, language.

Also what has to be installed first (Unsloth, llama.cpp, a lesson's extras), and the one exception that speaks
both languages. It knows nothing of models, data or training.
"""

from lessonlib.runtime._detect import detect, restart, restart_needed, secret
from lessonlib.runtime._extras import ensure
from lessonlib.runtime._language import LessonError, text
from lessonlib.runtime._paths import dataset_dir, twin_dir

__all__ = [
    "LessonError",
    "dataset_dir",
    "detect",
    "ensure",
    "restart",
    "restart_needed",
    "secret",
    "text",
    "twin_dir",
]
