"""How much a training step keeps besides weights and optimiser: activations and logits, estimated.

The formulas stand in `kept` and `logits`; `_memory` puts them beside what it counts. They follow
transformers 5.17, peft 0.21 and trl 1.14.2, in which a layer's saved tensors are decided.
"""

from collections import defaultdict
from typing import Any

from lessonlib.lora._config import block_linears, features, has_lora, inside_blocks

_CHUNK = 256  # tokens whose logits trl's "chunked_nll" computes at a time


def kept(
    shadow: Any, *, batch_size: int, length: int, size: int, checkpointing: bool, largest: int = 0
) -> tuple[int, int]:
    """Bytes that the decoder blocks keep for the backward pass, and bytes that come on top while it runs.

    After Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models" (arXiv
    2205.05198, section 4), whose count for one block of a GPT in 16 bits is T (34 h + 5 heads length) bytes.
    Adapted here to frozen weights, which keep nothing (a linear layer's input is needed only for its own
    gradient). With T = batch_size x length tokens and e = bytes of the dtype, a block keeps
        T x 4 x width                 the input of each norm, in fp32; where an RMSNorm learns, twice
        T x e x outputs               of all linear layers but the two that go back into the stream
        T x e x MLP width             in gated MLPs (Llama, Phi-3, Gemma): the gate after its nonlinearity
        T x e x (q + k)               the rotated copies, where one matrix makes q, k and v (Phi-3): v, a
                                      slice of its output, keeps all of that
        T x e x 2 (q - k)             where several heads share keys and values: the copies for each head
        T x e x q                     under sdpa: what attention hands on, unless o_proj keeps that itself
        T x heads x length x (e + 4)  under eager attention: the softmax in fp32 and its copy in dtype (x 4
                                      where both are fp32), and with softcapping (Gemma-2) e for its tanh
        T x e x inputs                of the linear layers that learn, and of LoRA's B. Layers that read one
                                      tensor (q, k and v) keep it once in fp32 and over 4-bit weights, else
                                      each its own copy; and so always with LoRA dropout
        T x 1 x inputs                with LoRA dropout, its mask
    and, where dtype has 2 bytes, there is a copy in dtype of each trainable matrix. With checkpointing (Chen
    et al. 2016, arXiv 1604.06174) a block keeps its input alone.

    On top, once the loss is computed and the logits are gone, comes in the block at work
        T x 3 e x MLP width           gradients on their way through the MLP
        (e + 8/64) x largest matrix   in 4 bits: MatMul4Bit of bitsandbytes keeps no activation, but copies
                                      the matrix in dtype, and its scales twice in fp32
        what a block keeps            with checkpointing: it is computed again in full.

    After a LayerNorm (BLOOM) 4 bits cost more: the copy of the matrix exists in fp32 too, x 4, and what the
    MLP's first matrix makes stays in fp32, T x 4 instead of T x e.

    Not counted: rows without padding on a T4 in a model whose heads share keys and values (Llama). Then
    transformers asks for a kernel that this card lacks (its issue 48633), and the scores of eager attention
    come on top.

    Args:
        shadow: the model with its adapters, on the meta device.
        batch_size, length: rows, and tokens in a row.
        size: e, 2 or 4.
        checkpointing: gradient checkpointing on every block.
        largest: numbers in the largest 4-bit matrix; 0 without quantisation.

    Returns:
        (bytes when the loss is computed, bytes that come on top once the logits are gone).
    """
    from torch import nn

    config = shadow.config.get_text_config()
    layer_norm = _has_layer_norm(shadow)
    parts: dict[str, list[Any]] = defaultdict(list)  # the linear layers of each attention and each MLP
    for path, linear in block_linears(shadow).items():
        parts[path.rpartition(".")[0]].append((path, linear))
    per_token, widest = _norms(shadow), 0
    for linears in parts.values():
        found, width = _part(linears, config, length, size, packed=bool(largest), layer_norm=layer_norm)
        per_token, widest = per_token + found, max(widest, width)
    tokens, blocks = batch_size * length, config.num_hidden_layers
    whole = tokens * per_token
    again = whole // blocks if checkpointing else 0
    if checkpointing:
        whole = tokens * config.hidden_size * (4 if layer_norm else size) * blocks
    if size == 2:
        matrices = {module.weight for module in shadow.modules() if isinstance(module, nn.Linear)}
        whole += size * sum(matrix.numel() for matrix in matrices if matrix.requires_grad)
    matrix = (size + (4 if layer_norm and size == 2 else 0)) * largest + largest // 8
    return whole, tokens * 3 * size * widest + matrix + again


def logits(shadow: Any, *, tokens: int, size: int, loss: str) -> int:
    """Bytes around the output head at their highest.

    With T tokens, V = vocabulary, h = hidden size, e = bytes of the dtype:
        "full"     12 T V. ForCausalLMLoss of transformers casts the logits to fp32 and calls cross_entropy,
                   which keeps the log-probabilities; when the backward pass starts, these, their gradient and
                   the logits' gradient are alive, 4 bytes each. Softcapping (Gemma-2) adds e T V for its
                   tanh. Whoever holds on to `outputs` adds e T V.
        "chunked"  c = min(T, 256) tokens at a time: 16 c V, with softcapping 20 c V; in 2 bytes also a copy
                   of the head, 2 h V, where it learns or a LayerNorm hands it fp32 (BLOOM: then 6 h V +
                   2 c V, if that is more). For short batches this can be the larger of the two losses.

    Args:
        shadow: as in `kept`.
        tokens, size: T and e.
        loss: "full" or "chunked".
    """
    config = shadow.config.get_text_config()
    head = shadow.get_output_embeddings()
    hidden, vocabulary = config.hidden_size, config.vocab_size
    capped = bool(getattr(config, "final_logit_softcapping", None))
    if loss == "full":
        return tokens * vocabulary * (12 + size * capped)
    chunk = min(tokens, _CHUNK)
    computing = chunk * vocabulary * (16 + 4 * capped)
    if size == 4:
        return computing
    if _has_layer_norm(shadow):
        return max(2 * hidden * vocabulary + computing, 6 * hidden * vocabulary + 2 * chunk * vocabulary)
    learns = any(parameter.requires_grad for parameter in head.parameters())
    return computing + (2 * hidden * vocabulary if learns else 0)


def _part(
    linears: list[Any], config: Any, length: int, size: int, *, packed: bool, layer_norm: bool
) -> tuple[int, int]:
    """(bytes for each token that an attention or an MLP keeps, how wide it is inside).

    One of its linear layers goes back into the stream, with `hidden_size` outputs, and reads what the others
    made; they all read the norm's output. (Llama's q_proj may have as many outputs, but comes earlier.)
    """
    ends = [pair for pair in linears if features(pair[1])[1] == config.hidden_size]
    path, last = (ends or linears)[-1]
    first = [pair for pair in linears if pair[1] is not last]
    attention = "att" in path.rpartition(".")[0].rpartition(".")[2]
    made = sum(features(linear)[1] for _, linear in first)
    width = features(last)[0]
    inputs, own = _learning([linear for _, linear in first], [last], size, packed)
    total = inputs
    if attention:
        heads = config.num_attention_heads
        share = (getattr(config, "num_key_value_heads", None) or heads) / heads
        total += size * (made + round(2 * width * (1 - share)))
        if len(first) == 1 and getattr(config, "rope_parameters", None):
            total += size * round(width * (1 + share))
        if config._attn_implementation == "eager":
            capped = bool(getattr(config, "attn_logit_softcapping", None))
            total += heads * length * ((4 if size == 4 else size + 4) + size * capped)
        elif own or not _learns(last):
            total += size * width
        return total, width
    total += made * (4 if packed and layer_norm else size)
    return total + (size * width if any("gate" in path for path, _ in first) else 0), width


def _learning(first: list[Any], last: list[Any], size: int, packed: bool) -> tuple[int, bool]:
    """(bytes for each token that learning layers keep of their inputs, whether the last has its own copy)."""
    total, own = 0, False
    for group in (first, last):
        copies = [features(linear)[0] for linear in group if _learns(linear)]
        adapted = [linear for linear in group if has_lora(linear)]
        dropping = [linear for linear in adapted if _drops(linear)]
        # Full fine-tuning hands fp32 from the norms to the first ones, and 16 bits from them to the last.
        casts = size == 2 and not packed and (bool(adapted) or group is first)
        own = bool(dropping) or casts
        total += size * (sum(copies) if own else max(copies, default=0))
        total += size * sum(sum(linear.r.values()) for linear in adapted)
        total += sum(features(linear)[0] for linear in dropping)
    return total, own


def _norms(shadow: Any) -> int:
    """Bytes for each token that the norms inside the blocks keep."""
    from torch import nn

    total = 0
    for module in inside_blocks(shadow).values():
        if "norm" in type(module).__name__.lower():
            learns = module.weight.requires_grad and not isinstance(module, nn.LayerNorm)
            total += module.weight.numel() * (8 if learns else 4)
    return total


def _has_layer_norm(shadow: Any) -> bool:
    """Autocast runs nn.LayerNorm in fp32 and leaves its output so; an RMSNorm casts its own back."""
    from torch import nn

    return any(isinstance(module, nn.LayerNorm) for module in shadow.modules())


def _learns(linear: Any) -> bool:
    return has_lora(linear) or linear.weight.requires_grad


def _drops(linear: Any) -> bool:
    return any(getattr(dropout, "p", 0) for dropout in linear.lora_dropout.values())
