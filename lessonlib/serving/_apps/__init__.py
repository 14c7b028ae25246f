"""What an exported GGUF file needs in the programs that people chat with: Ollama, Jan, LM Studio, GPT4All.

Jan and LM Studio take the chat template from the file. Ollama wants it in Go's template language, and GPT4All
in a Jinja without assignments to `messages`; both are made here from the file's own template and checked
against it. The windows of these programs are not opened here: what the steps say of them follows their
documentation, which is named there.
"""

from lessonlib.serving._apps._layout import Layout, layout
from lessonlib.serving._apps._modelfile import modelfile
from lessonlib.serving._apps._recipes import Recipe, gpt4all, jan, lm_studio, ollama
from lessonlib.serving._apps._writing import write

__all__ = [
    "Layout",
    "Recipe",
    "gpt4all",
    "jan",
    "layout",
    "lm_studio",
    "modelfile",
    "ollama",
    "write",
]
