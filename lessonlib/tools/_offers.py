"""What a prompt says about the tools on offer: instruction and schemas, whole or in their shortest form."""

import json
from typing import Any

from lessonlib.tools._marks import Safe
from lessonlib.tools._schemas import signature

_INSTRUCTION = {
    "vi": "Bạn có thể gọi hàm. Các hàm được dùng nằm giữa <tools> và </tools>, mỗi hàm kèm JSON Schema của "
    "các đối số. Trước hết hãy nghĩ trong <think></think> xem hàm nào phù hợp. Sau đó viết mỗi lời gọi "
    'thành <tool_call>{"name":"...","arguments":{...}}</tool_call>; kết quả sẽ trở lại trong '
    "<tool_response></tool_response>. Nếu không có hàm nào phù hợp thì đừng gọi, hãy nói rõ điều đó. Nếu "
    "thiếu một đối số bắt buộc thì hãy hỏi lại, đừng tự nghĩ ra.",
    "en": "You may call functions. Those on offer stand between <tools> and </tools>, each with the JSON "
    "Schema of its arguments. First think, in <think></think>, which of them fits. Then write each call as "
    '<tool_call>{"name":"...","arguments":{...}}</tool_call>; the results come back in '
    "<tool_response></tool_response>. If none of them fits, call none and say so. If a required argument is "
    "missing, ask for it and never make one up.",
}
# What Llama 3.2's own template writes when the tools are not to stand in the first user turn.
_LLAMA_INTRO = (
    "You have access to the following functions. To call a function, please respond with JSON for a function "
    'call.Respond in the format {"name": function name, "parameters": dictionary of argument name and its '
    "value}.Do not use variables.\n\n"
)


def offered_text(tools: list[dict[str, Any]], family: str, style: str, language: str, safe: Safe) -> str:
    """What the prompt says about the tools; "" without any."""
    if not tools:
        return ""
    if style == "compact":
        shown = [signature(tool) for tool in tools]
    else:  # most chat templates pass over what a function returns, and so does the training data
        wanted = ("name", "description", "parameters")
        functions = [{key: tool["function"][key] for key in wanted} for tool in tools]
        shown = [{"type": "function", "function": function} for function in functions]
    if family == "llama":
        schemas = (json.dumps(safe.value(tool), ensure_ascii=False, indent=4) for tool in shown)
        return _LLAMA_INTRO + "".join(f"{schema}\n\n" for schema in schemas)
    block = f"<tools>{safe.json(shown)}</tools>"
    return block if style == "compact" else f"{_INSTRUCTION[language]}\n\n{block}"
