"""An OpenAI-compatible server over one GGUF file: llama-cpp-python's, in a process that ends with ours."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError, Translated
from lessonlib.serving._client import http_client
from lessonlib.serving._formats import chat_format, checked_file
from lessonlib.serving._llama import CONTEXT, threads

_HOST = "127.0.0.1"  # this machine only: the server has no password
_PACKAGES = ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")

# The server ends when our end of the pipe closes, so it cannot outlive a kernel that was killed.
_SERVE = """
import os, sys, threading
def watch():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
from llama_cpp.server.__main__ import main
main()
"""


@contextmanager
def llama_server(
    gguf: str | os.PathLike,
    *,
    port: int = 0,
    context: int = CONTEXT,
    template_options: Mapping[str, Any] | None = None,
    time_limit: float = 120,
) -> Iterator[str]:
    """An OpenAI-compatible server of llama.cpp over one GGUF file, as long as the `with` block lasts.

    It is the server of llama-cpp-python, in a process of its own that only this machine can reach. It ends
    with the block, however the block ends, and also when this process is killed.

    Args:
        gguf, context, template_options: as in `ask_llama_cpp`.
        port: where it listens; 0: a free one.
        time_limit: seconds until it has to answer.

    Yields:
        The base URL, "http://127.0.0.1:PORT/v1", as OpenAI's clients take it.

    Raises:
        LessonError: a missing package; a file that cannot be used; a port that is taken; a server that ended
            or did not answer in time, with the end of what it wrote.
    """
    file = checked_file(gguf)
    llama_cpp_tools.check_packages()
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise LessonError(
            "llama.cpp's server needs further packages: {missing}. Install them: python -m pip install "
            '"llama-cpp-python[server]=={version}"',
            missing=", ".join(missing), version=llama_cpp_tools.VERSION,
        )
    chat_format(file)  # a file that cannot be opened is better told of here than by a server's log
    port = _free_port(port)
    cores = threads()
    model = {
        "model": str(file), "model_alias": file.stem, "n_ctx": context, "n_threads": cores,
        "n_threads_batch": cores, "chat_template_kwargs": dict(template_options or {}), "logits_all": False,
        "verbose": False,
    }  # fmt: skip
    # interrupt_requests: by default a second question would cut off the answer to the first.
    settings = {"host": _HOST, "port": port, "interrupt_requests": False, "models": [model]}
    ours = {name: value for name, value in os.environ.items() if name not in ("HOST", "PORT", "CONFIG_FILE")}
    with tempfile.TemporaryDirectory(prefix="lessonlib-server-") as folder:
        config, log = Path(folder, "config.json"), Path(folder, "log.txt")
        config.write_text(json.dumps(settings), encoding="utf-8")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, "--config_file", str(config)], stdin=subprocess.PIPE,
                stdout=output, stderr=subprocess.STDOUT, env=ours, start_new_session=True,
            )  # fmt: skip
        try:
            url = f"http://{_HOST}:{port}/v1"
            _wait_for(process, url, file.stem, log, time_limit)
            yield url
        finally:
            process.kill()  # it has nothing to save
            process.communicate()


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn: a port just left is free
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise LessonError(
                "Port {port} cannot be used ({strerror}); another server may hold it. Choose another, or "
                "port=0 for a free one.",
                port=port, strerror=error.strerror,
            ) from error
        return int(probe.getsockname()[1])


def _wait_for(process: subprocess.Popen, url: str, name: str, log: Path, time_limit: float) -> None:
    """Return once the server tells of our model; say why it does not."""
    import httpx

    end = time.monotonic() + time_limit
    while True:
        ended = process.poll()
        if ended is not None or time.monotonic() > end:
            wrote = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            if ended is None:
                what = Translated("did not answer within {time_limit:g} seconds", time_limit=time_limit)
            else:
                what = Translated("ended (code {code})", code=ended)
            raise LessonError(
                "llama.cpp's server {what}. Its last lines:\n{wrote}", what=what, wrote=wrote,
            )
        try:
            with http_client() as client:
                reply = client.get(f"{url}/models")
            if reply.status_code == 200 and name in [model["id"] for model in reply.json()["data"]]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
