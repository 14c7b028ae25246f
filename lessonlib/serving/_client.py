"""Asks the server that `llama_server` started, in the format of OpenAI's service."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

from lessonlib.runtime._language import LessonError
from lessonlib.serving._formats import Message, checked_messages


def completion(url: str, messages: Sequence[Message], *, max_tokens: int = 64) -> dict[str, Any]:
    """One greedy answer in OpenAI's format: `choices[0]["message"]["content"]`, `usage` with token counts.

    Args:
        url: what `llama_server` gave.
        messages: role and content of each; the last is the user's.
        max_tokens: the longest answer.

    Raises:
        LessonError: messages that cannot be used; no server there; the server's own error.
    """
    with _errors_of(url), http_client() as client:
        reply = client.post(f"{url}/chat/completions", json=_request(messages, max_tokens))
        _check_reply(reply.status_code, reply.text)
        answer: dict[str, Any] = reply.json()
        return answer


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
        url, messages, max_tokens: as in `completion`.
        stream: give the pieces one by one, while the model is still writing. What goes wrong is then raised
            when the first piece is asked for.

    Raises:
        LessonError: as in `completion`.
    """
    request = _request(messages, max_tokens)
    if stream:
        return _pieces(url, request | {"stream": True})
    return str(completion(url, messages, max_tokens=max_tokens)["choices"][0]["message"]["content"])


def _pieces(url: str, request: Mapping[str, Any]) -> Iterator[str]:
    """Server-sent events: lines "data: {...}", each with a bit of the answer, the last "data: [DONE]"."""
    address, finished = f"{url}/chat/completions", False
    with _errors_of(url), http_client() as client, client.stream("POST", address, json=request) as reply:
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


def _request(messages: Sequence[Message], max_tokens: int) -> dict[str, Any]:
    # The server's own repeat_penalty is 1.1: without this line even temperature 0 is no greedy answer.
    sampling = {"temperature": 0.0, "repeat_penalty": 1.0}
    return {"messages": checked_messages(messages), "max_tokens": max_tokens, **sampling}


def http_client() -> Any:
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
