"""Function calling: tools as JSON Schemas, rendered, parsed, checked, executed and scored.

The way of a call through this room:

    schemas      Python functions -> JSON Schemas
    rendering    conversation and schemas -> messages that a chat template takes
    parsing      the model's text -> thought, calls, text
    validation   a call against the schemas
    execution    a checked call of a registered function -> its result
    loop         call, result, reply, until the model has answered
    scoring      the calls expected against those that came

A call is a plain dict {"name": str, "arguments": dict}. Nothing that a model writes is ever evaluated.
"""

from lessonlib.tools._conversations import turns
from lessonlib.tools._execution import execute
from lessonlib.tools._generation import generator, replies
from lessonlib.tools._hub_calls import HERMES, HERMES_REVISION, from_hermes
from lessonlib.tools._loop import converse
from lessonlib.tools._marks import TAGS
from lessonlib.tools._parsing import parse
from lessonlib.tools._rendering import chats, prompts, render
from lessonlib.tools._schemas import schema, schemas, signature
from lessonlib.tools._scoring import by_error, by_kind, mcnemar, rates, report, worst
from lessonlib.tools._validation import check

__all__ = [
    "HERMES", "HERMES_REVISION", "TAGS", "by_error", "by_kind", "chats", "check", "converse", "execute",
    "from_hermes", "generator", "mcnemar", "parse", "prompts", "rates", "render", "replies", "report",
    "schema", "schemas", "signature", "turns", "worst",
]  # fmt: skip
