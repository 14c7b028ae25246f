"""Function calling: tools as JSON Schemas, rendered, parsed, checked, executed and scored.

The way of a call through this package:

    schemas      Python functions -> JSON Schemas
    rendering    conversation and schemas -> messages that a chat template takes
    parsing      the model's text -> thought, calls, text
    validation   a call against the schemas
    execution    a checked call of a registered function -> its result
    loop         call, result, reply, until the model has answered
    scoring      the calls expected against those that came

A call is a plain dict {"name": str, "arguments": dict}. Nothing that a model writes is ever evaluated. Of the
names below `schemas` is a function; what else the module of that name has is imported from
`lessonlib.tools.schemas`.
"""

from lessonlib.tools.execution import execute, registered
from lessonlib.tools.loop import Conversation, Step, converse, generator, replies
from lessonlib.tools.parsing import Parsed, parse
from lessonlib.tools.rendering import TAGS, chats, harmless, prompts, render, turns
from lessonlib.tools.schemas import schema, schemas, signature
from lessonlib.tools.scoring import (
    ERRORS,
    NO_CALL,
    OneOf,
    Verdict,
    by_error,
    by_kind,
    from_bfcl,
    mcnemar,
    rates,
    report,
    score_call,
    score_turn,
    worst,
)
from lessonlib.tools.validation import Problem, check

__all__ = [
    "ERRORS", "NO_CALL", "TAGS", "Conversation", "OneOf", "Parsed", "Problem", "Step", "Verdict",
    "by_error", "by_kind", "chats", "check", "converse", "execute", "from_bfcl", "generator", "harmless",
    "mcnemar", "parse", "prompts", "rates", "registered", "render", "replies", "report", "schema",
    "schemas", "score_call", "score_turn", "signature", "turns", "worst",
]  # fmt: skip
