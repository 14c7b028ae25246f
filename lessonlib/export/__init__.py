"""What leaves the notebook: adapter, merged model, GGUF with the proof that it is the model, and the push.

It knows files and the Hub; what answers from these files is in `serving`.
"""

from lessonlib.export._gguf import describe as describe_gguf
from lessonlib.export._gguf import make as make_gguf
from lessonlib.export._gguf_parity import verify as verify_gguf
from lessonlib.export._hub import hub
from lessonlib.export._model_card import model_card
from lessonlib.export._model_card import save as save_card
from lessonlib.export._publish import compare as compare_push
from lessonlib.export._publish import push
from lessonlib.export._saving import merge, save_adapter

__all__ = [
    "compare_push",
    "describe_gguf",
    "hub",
    "make_gguf",
    "merge",
    "model_card",
    "push",
    "save_adapter",
    "save_card",
    "verify_gguf",
]
