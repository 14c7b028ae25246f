"""Which model a lesson means, from the Hub at a pinned revision or as a twin, and what 4 bits cost it.

It knows architectures and downloads, and nothing of the rows that a model will see.
"""

from lessonlib.models._loading import load, skeleton, source
from lessonlib.models._quantisation import quantisation_error

__all__ = [
    "load",
    "quantisation_error",
    "skeleton",
    "source",
]
