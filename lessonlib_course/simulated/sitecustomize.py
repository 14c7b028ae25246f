"""What every Python process of a dry run starts with: the course believes that it has a T4.

Python imports `sitecustomize` by itself; `dry_run` puts this folder on the path of a lesson's kernel and,
through it, of the processes that the lesson starts.
"""

from lessonlib.runtime import _detect

_found = _detect._unsloth_or_not
_detect._first_gpu = lambda: _detect.Gpu("Tesla T4 (simulated)", (7, 5), 14.7)
_detect._dtype_for = lambda gpu, profile: "float32"  # a CPU has no fp16 training
_detect._unsloth_or_not = lambda device: _found("cpu")
_detect.Runtime.device = property(lambda runtime: "cpu")  # type: ignore[assignment]
