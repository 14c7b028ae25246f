"""LoRA: a configuration that reaches every linear layer, what it reached, new tokens; `layers` writes it out.

`lora.layers` is LoRA by hand, to be read beside loralib and peft. This room does not know how to train.
"""

from lessonlib.lora._config import adapted, attach, block_linears, has_lora, lora_config
from lessonlib.lora._tokens import adapter_size, unregistered
from lessonlib.lora._tokens import add as add_tokens

__all__ = [
    "adapted",
    "adapter_size",
    "add_tokens",
    "attach",
    "block_linears",
    "has_lora",
    "layers",
    "lora_config",
    "unregistered",
]
