"""An OpenAI-compatible server over one GGUF file: llama-cpp-python's, in a process that ends with ours.

`chat` asks it, in the format of OpenAI's service.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, overload

from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError, Translated
from lessonlib.serving._llama import CONTEXT, Message, chat_format, checked_file, checked_messages, threads

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
    context: int = CONTEXT,
    time_limit: float = 120,
) -> Iterator[str]:
    """An OpenAI-compatible server of llama.cpp over one GGUF file, as long as the `with` block lasts.

    It is the server of llama-cpp-python, in a process of its own that only this machine can reach. It ends
    with the block, however the block ends, and also when this process is killed.

    Args:
        gguf, context: as in `ask_llama_cpp`.
        time_limit: seconds until it has to answer.

    Yields:
        The base URL, "http://127.0.0.1:PORT/v1", as OpenAI's clients take it.

    Raises:
        LessonError: a missing package; a file that cannot be used; a server that ended or did not answer in
            time, with the end of what it wrote.
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
    port = _free_port()
    cores = threads()
    model = {
        "model": str(file), "model_alias": file.stem, "n_ctx": context, "n_threads": cores,
        "n_threads_batch": cores, "logits_all": False, "verbose": False,
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
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
            with _http_client() as client:
                reply = client.get(f"{url}/models")
            if reply.status_code == 200 and name in [model["id"] for model in reply.json()["data"]]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)


@overload
def chat(
    url: str, messages: Sequence[Message], *, max_tokens: int = ..., stream: Literal[False] = ...
) -> str: ...
@overload
def chat(
    url: str, messages: Sequence[Message], *, max_tokens: int = ..., stream: Literal[True]
) -> Iterator[str]: ...
def chat(
    url: str, messages: Sequence[Message], *, max_tokens: int = 64, stream: bool = False
) -> str | Iterator[str]:
    """The greedy answer of the server: its text, or the pieces of it as they come.

    httpx is used, and not huggingface_hub's InferenceClient, which with HF_HUB_OFFLINE=1 refuses even a
    server on this machine.

    Args:
        url: what `llama_server` gave.
        messages: role and content of each; the last is the user's.
        max_tokens: the longest answer.
        stream: give the pieces one by one, while the model is still writing. What goes wrong is then raised
            when the first piece is asked for.

    Raises:
        LessonError: messages that cannot be used; no server there; the server's own error.
    """
    # The server's own repeat_penalty is 1.1: without this line even temperature 0 is no greedy answer.
    sampling = {"temperature": 0.0, "repeat_penalty": 1.0}
    request = {"messages": checked_messages(messages), "max_tokens": max_tokens, "stream": stream, **sampling}
    if stream:
        return _pieces(url, request)
    with _errors_of(url), _http_client() as client:
        reply = client.post(f"{url}/chat/completions", json=request)
        _check_reply(reply.status_code, reply.text)
        return str(reply.json()["choices"][0]["message"]["content"])


def _pieces(url: str, request: Mapping[str, Any]) -> Iterator[str]:
    """Server-sent events: lines "data: {...}", each with a bit of the answer, the last "data: [DONE]"."""
    address, finished = f"{url}/chat/completions", False
    with _errors_of(url), _http_client() as client, client.stream("POST", address, json=request) as reply:
        if reply.status_code != 200:
            reply.read()
            _check_reply(reply.status_code, reply.text)
        for line in reply.iter_lines():
            content = line.removeprefix("data: ")
            if content == line or content == "[DONE]":  # an empty line, a sign of life, the end
                continue
            choice = json.loads(content)["choices"][0]
            finished = finished or choice["finish_reason"] is not None
            if choice["delta"].get("content"):
                yield choice["delta"]["content"]
    if not finished:  # llama-cpp-python ends the stream where it should tell of an error
        raise LessonError(
            "The server at {url} stopped sending and gave no reason. Ask again with stream=False to see the "
            "error; mostly the conversation is longer than the context.",
            url=url,
        )


def _http_client() -> Any:
    """A client for a server on this machine."""
    import httpx

    # trust_env: a proxy that the environment names is not for this machine's own addresses.
    return httpx.Client(trust_env=False, timeout=httpx.Timeout(600, connect=10))


@contextmanager
def _errors_of(url: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise LessonError(
            "There is no server at {url} ({error}). It runs only inside the block `with llama_server(...)`: "
            "ask inside that block.",
            url=url, error=error,
        ) from error


def _check_reply(status: int, body: str) -> None:
    if status == 200:
        return
    raise LessonError("The server answered with an error {status}: {body}", status=status, body=body[:500])
