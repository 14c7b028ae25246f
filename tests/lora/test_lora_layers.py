"""lora.layers: equal to loralib and peft, and the mistakes that loralib lets through, each shown there too.

loralib 0.1.2 works with torch 2.13. Two quirks are worked around: its Conv2d keeps the base under `conv` (see
`weight_of`), and `eval()` of its layers gives back None.
"""

import copy

import loralib
import peft
import pytest
import safetensors.torch
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from lessonlib.lora import _config as lora
from lessonlib.lora import _saving as saving
from lessonlib.lora import layers
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError

QV = [True, False, True]
NUMBERS = {"r": 3, "lora_alpha": 5}  # a scale that is no power of two, so that its place shows
CONV = {"stride": 2, "padding": 1, "groups": 2}
KINDS = {
    "Linear": ((12, 6), {}, (5, 12)),
    "MergedLinear": ((12, 6), {"enable_lora": QV}, (2, 5, 12)),
    "Embedding": ((12, 6), {"padding_idx": 2}, None),
    "Conv2d": ((4, 6, 3), CONV, (2, 4, 7, 7)),
}
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
}


def made(kind, where=layers, **more):
    """A layer in double precision and an input for it."""
    arguments, keywords, shape = KINDS[kind]
    layer = getattr(where, kind)(*arguments, **(NUMBERS | keywords | more)).double()
    if shape:
        return layer, torch.randn(shape, dtype=torch.float64)
    return layer, torch.arange(24).remainder(12).view(3, 8)


def weight_of(layer):
    return layer.conv.weight if isinstance(layer, loralib.ConvLoRA) else layer.weight


def grown(layer):
    """The same layer with A and B as after some training."""
    with torch.no_grad():
        layer.lora_A.normal_(std=0.5)
        layer.lora_B.normal_(std=0.5)
    return layer


def pair(kind, **more):
    """Ours and loralib's with the same weights, A and B, and an input."""
    torch.manual_seed(0)
    ours, x = made(kind, **more)
    theirs, _ = made(kind, loralib, **more)
    weights = grown(ours).state_dict()
    for name in ("weight", "bias") if isinstance(theirs, loralib.ConvLoRA) else ():
        weights[f"conv.{name}"] = weights.pop(name)
    theirs.load_state_dict(weights)
    return ours, theirs, x


def ten_steps(model, parameters, loss):
    model.train()
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


def same(one, other, tolerance=1e-6):
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@pytest.fixture
def net():
    """Fresh copies of a small model of two linear layers, the same at every call."""

    def build(seed=0):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        return model

    return build


def with_lora(model, where=layers):
    """The model with LoRA in both linear layers and its weights loaded."""
    first, second = model[0], model[2]
    if where is layers:
        pieces = [layers.Linear.from_layer(one, r=2, lora_alpha=8) for one in (first, second)]
    else:
        pieces = [loralib.Linear(8, 8, r=2, lora_alpha=8), loralib.Linear(8, 4, r=2, lora_alpha=8)]
        for piece, one in zip(pieces, (first, second), strict=True):
            piece.load_state_dict(one.state_dict(), strict=False)
    return nn.Sequential(pieces[0], nn.ReLU(), pieces[1])


def trained(model):
    for layer in (model[0], model[2]):
        grown(layer)
    return model


def tiny_phi3(dtype=torch.float64):
    torch.manual_seed(0)
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**SMALL)).to(dtype)


# Equal to loralib


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_loralibs(kind):
    ours, theirs, x = pair(kind)
    same(ours(x), theirs(x), 1e-12)
    plain = ours(x) - ours.update(x)
    assert (ours(x) - plain).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_end_where_loralibs_do(kind):
    ours, theirs, x = pair(kind)
    start = ours.lora_A.detach().clone(), ours.lora_B.detach().clone()
    target = torch.randn(ours(x).shape, dtype=torch.float64)
    layers.mark_only_lora_as_trainable(ours)
    loralib.mark_only_lora_as_trainable(theirs)
    for layer in (ours, theirs):
        ten_steps(layer, layer.parameters(), lambda layer: F.mse_loss(layer(x), target))
    same(ours.lora_A, theirs.lora_A)
    same(ours.lora_B, theirs.lora_B)
    same(ours.weight, weight_of(theirs), 0)
    assert (ours.lora_A - start[0]).abs().max() > 0.05 and (ours.lora_B - start[1]).abs().max() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_initial_values_are_loralibs(kind):
    ours, x = made(kind)
    theirs, _ = made(kind, loralib)
    assert ours.lora_A.shape == theirs.lora_A.shape and ours.lora_B.shape == theirs.lora_B.shape
    same(ours.delta(), torch.zeros_like(ours.weight), 0)
    zero, random = ("lora_A", "lora_B") if kind == "Embedding" else ("lora_B", "lora_A")
    assert not getattr(theirs, zero).any() and not getattr(ours, zero).any()
    torch.manual_seed(1)
    ours.reset_lora()
    torch.manual_seed(1)
    if kind == "Embedding":
        expected = torch.empty_like(ours.lora_B).normal_()
    else:
        # Kaiming-uniform with a = sqrt(5) is U(-b, b) with b = 1 / sqrt(columns).
        bound = ours.lora_A.shape[1] ** -0.5
        expected = torch.empty_like(ours.lora_A).uniform_(-bound, bound)
        assert theirs.lora_A.abs().max() <= bound
    same(getattr(ours, random), expected, 1e-12)


@pytest.mark.parametrize("kind", ["Linear", "MergedLinear"])
def test_dropout_is_loralibs_with_the_same_seed(kind):
    ours, theirs, x = pair(kind, lora_dropout=0.5)
    outputs = []
    for layer in (ours, theirs):
        torch.manual_seed(3)
        outputs.append(layer(x))
    same(*outputs, 1e-12)
    torch.manual_seed(4)
    assert (ours(x) - outputs[0]).abs().max() > 1e-3
    theirs.eval()
    same(ours.eval()(x), theirs(x), 1e-12)


@pytest.mark.parametrize("kind", ["Linear", "MergedLinear", "Conv2d"])
def test_dropout_falls_on_the_way_into_a(kind):
    """y = W x + delta dropout(x), with the same mask; the base sees x whole."""
    layer, x = made(kind, lora_dropout=0.5)
    grown(layer)
    plain = copy.deepcopy(layer)
    plain.lora_B.data.zero_()
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.5)
    delta = layer.delta()
    expected = F.conv2d(dropped, delta, **CONV) if kind == "Conv2d" else dropped @ delta.T
    same(y, plain(x) + expected, 1e-12)
    same(layer.eval()(x), layer(x), 0)


def test_loralibs_conv2d_ignores_its_dropout():
    _, theirs, x = pair("Conv2d", lora_dropout=0.5)
    same(theirs(x), theirs(x), 0)
    assert (made("Conv2d", lora_dropout=0.5)[0].lora_dropout.p) == 0.5


# Equal to peft


class Small(nn.Module):
    """An embedding, a convolution of 1 x 1 and a linear layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 6)
        self.conv = nn.Conv2d(1, 4, 1)
        self.linear = nn.Linear(6, 5, bias=False)

    def forward(self, ids):
        x = self.conv(self.embedding(ids).unsqueeze(1))  # (rows, 4, length, 6)
        return self.linear(torch.tanh(x))


def peft_pairs(ours, theirs, names):
    """(ours, peft's) for the A and B of each layer, peft's in our shape."""
    for name in names:
        mine, layer = ours.get_submodule(name), theirs.get_base_model().get_submodule(name)
        if isinstance(mine, layers.Embedding):
            yield mine.lora_A, layer.lora_embedding_A["default"]
            yield mine.lora_B, layer.lora_embedding_B["default"]
        else:
            yield mine.lora_A, layer.lora_A["default"].weight
            yield mine.lora_B, layer.lora_B["default"].weight


def copy_from_peft(pairs):
    with torch.no_grad():
        for mine, theirs in pairs:
            mine.copy_(theirs.view(mine.shape))


def test_linear_embedding_and_conv2d_are_pefts_before_and_after_ten_steps():
    torch.manual_seed(0)
    base, names = Small().double(), ["embedding", "conv", "linear"]
    ours = copy.deepcopy(base)
    for name in names:
        kind = {"embedding": layers.Embedding, "conv": layers.Conv2d, "linear": layers.Linear}[name]
        setattr(ours, name, kind.from_layer(getattr(ours, name), **NUMBERS))
    config = peft.LoraConfig(**NUMBERS, target_modules=names, init_lora_weights=False)
    theirs = peft.get_peft_model(base, config, autocast_adapter_dtype=False).double()
    copy_from_peft(peft_pairs(ours, theirs, names))
    ids = torch.arange(24).remainder(12).view(3, 8)
    same(ours(ids), theirs(ids), 1e-12)
    target = torch.randn(ours(ids).shape, dtype=torch.float64)
    for model in (ours, theirs):
        moving = [it for it in model.parameters() if it.requires_grad]
        assert len(moving) == 6
        ten_steps(model, moving, lambda model: F.mse_loss(model(ids), target))
    for mine, other in peft_pairs(ours, theirs, names):
        same(mine, other.view(mine.shape))


def test_a_conv2d_of_3_x_3_is_a_peft_conv2d_of_a_larger_rank():
    """The two have different A and B: loralib's rank r is that of an (out k, in k) matrix."""
    torch.manual_seed(0)
    layer = grown(layers.Conv2d(4, 6, 3, r=1, lora_alpha=2, padding=1).double())
    assert torch.linalg.matrix_rank(layer.delta().flatten(1)) > 1
    config = peft.LoraConfig(r=36, lora_alpha=36, target_modules=["0"])
    theirs = peft.get_peft_model(nn.Sequential(nn.Conv2d(4, 6, 3, padding=1)).double(), config).double()
    conv = theirs.get_base_model()[0]
    with torch.no_grad():
        conv.base_layer.weight.copy_(layer.weight)
        conv.base_layer.bias.copy_(layer.bias)
        conv.lora_A["default"].weight.copy_(torch.eye(36).view(36, 4, 3, 3))
        conv.lora_B["default"].weight.copy_(layer.delta().view(6, 36, 1, 1))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    same(layer(x), theirs(x), 1e-12)


@pytest.mark.parametrize("names", ["all", ["qkv_proj", "o_proj"]])
def test_phi3_is_pefts_before_and_after_ten_steps(names):
    ours, theirs = tiny_phi3(), tiny_phi3()
    paths = layers.replace(ours, names, r=4, lora_alpha=8)
    kinds = 4 if names == "all" else 2
    assert len(paths) == 2 * kinds
    layers.mark_only_lora_as_trainable(ours)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=[path.rsplit(".")[-1] for path in paths], init_lora_weights=False
    )
    theirs = peft.get_peft_model(theirs, config)
    copy_from_peft(peft_pairs(ours, theirs, paths))
    one, two = (sum(it.numel() for it in model.parameters() if it.requires_grad) for model in (ours, theirs))
    assert one == two > 0
    ids = torch.arange(40).remainder(64).view(2, 20)
    same(ours(ids).logits, theirs(ids).logits)
    start = {path: ours.get_submodule(path).lora_B.detach().clone() for path in paths}
    for model in (ours, theirs):
        moving = [it for it in model.parameters() if it.requires_grad]
        ten_steps(model, moving, lambda model: model(input_ids=ids, labels=ids).loss)
    for mine, other in peft_pairs(ours, theirs, paths):
        same(mine, other)
    for path, before in start.items():
        assert (ours.get_submodule(path).lora_B - before).abs().max() > 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_of_16_bits_gets_float32_adapters_as_in_peft(dtype):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(16, 8)).to(dtype)
    ours = layers.Linear.from_layer(copy.deepcopy(base[0]), r=2, lora_alpha=4)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0"], init_lora_weights=False)
    theirs = peft.get_peft_model(base, config)
    layer = theirs.get_base_model()[0]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    copy_from_peft([(ours.lora_A, a), (ours.lora_B, b)])
    assert ours.lora_A.dtype == a.dtype == torch.float32
    x = torch.randn(5, 16, dtype=dtype)
    assert ours(x).dtype == dtype
    same(ours(x), theirs(x), 4 * torch.finfo(dtype).eps)
    ours.merge()
    assert ours.weight.dtype == dtype
    same(ours(x), theirs(x), 8 * torch.finfo(dtype).eps)


# MergedLinear


def test_merged_linear_is_one_pair_for_each_enabled_slice():
    layer, x = made("MergedLinear")
    grown(layer)
    (a_q, a_v), (b_q, b_v) = layer.lora_A.view(2, 3, 12), layer.lora_B.view(2, 2, 3)
    w_q, w_k, w_v = layer.weight.view(3, 2, 12)
    bias, scale = layer.bias.view(3, 2), 5 / 3
    y = layer(x)
    same(y[..., 0:2], x @ w_q.T + bias[0] + scale * x @ a_q.T @ b_q.T, 1e-12)
    same(y[..., 2:4], x @ w_k.T + bias[1], 1e-12)
    same(y[..., 4:6], x @ w_v.T + bias[2] + scale * x @ a_v.T @ b_v.T, 1e-12)


def test_in_phi3_the_groups_are_query_key_and_value():
    """Phi3Attention cuts qkv_proj's output into queries, keys and values, one after the other."""
    attention = tiny_phi3().model.layers[0].self_attn
    assert attention.qkv_proj.out_features == 3 * 32
    x = torch.randn(1, 5, 32, dtype=torch.float64)
    plain = attention.qkv_proj(x).detach()
    layer = grown(layers.MergedLinear.from_layer(attention.qkv_proj, **NUMBERS, enable_lora=QV))
    changed = [bool(part.abs().max() > 1e-3) for part in (layer(x) - plain).split(32, dim=-1)]
    assert changed == QV


def test_in_bloom_they_are_not(tiny_bloom):
    """BLOOM's output alternates query, key, value head by head: 'value only' changes keys and queries too."""
    attention = tiny_bloom.transformer.h[0].self_attention
    x = torch.randn(1, 5, 32)
    plain = attention._reshape(attention.query_key_value(x))
    layer = grown(
        layers.MergedLinear.from_layer(
            attention.query_key_value, **NUMBERS, enable_lora=[False, False, True]
        )
    )
    changed = [
        bool((one - other).abs().max() > 1e-3)
        for one, other in zip(attention._reshape(layer(x)), plain, strict=True)
    ]
    assert changed == [False, True, True]


@pytest.mark.parametrize("enabled", [[False, False], [True, False, True, False]])
def test_groups_that_do_not_fit_are_refused(enabled):
    with pytest.raises(LessonError, match="at least one must be True.*divide out_features=6"):
        layers.MergedLinear(12, 6, **NUMBERS, enable_lora=enabled)


# Merging


@pytest.mark.parametrize("kind", KINDS)
def test_merging_changes_no_output_and_unmerging_gives_back_the_very_weight(kind):
    layer, x = made(kind)
    grown(layer)
    weight, before, y = layer.weight, layer.weight.detach().clone(), layer(x)
    assert layer.delta().shape == weight.shape
    layer.merge()
    same(layer(x), y, 1e-12)
    same(layer.weight, before + layer.delta(), 1e-12)
    layer.lora_B.data.zero_()
    same(layer(x), y, 1e-12)  # W alone
    layer.unmerge()
    assert layer.weight is weight and torch.equal(layer.weight, before)
    assert (layer(x) - y).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_is_exact_where_loralib_rounds(dtype):
    torch.manual_seed(0)
    ours = grown(layers.Linear(64, 64, **NUMBERS).to(dtype))
    theirs = loralib.Linear(64, 64, **NUMBERS).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    ours.merge()
    ours.unmerge()
    theirs.eval()
    theirs.train()
    assert torch.equal(ours.weight, before)
    assert (theirs.weight != before).sum() > 100


def test_a_merged_layer_moves_to_another_type_whole():
    layer = grown(layers.Linear(8, 8, **NUMBERS))
    before = layer.weight.detach().clone()
    layer.merge()
    layer.double().unmerge()
    assert layer.weight.dtype == torch.float64 and torch.equal(layer.weight, before.double())


def test_a_tied_head_keeps_its_weight_when_the_embedding_is_merged():
    embedding, head = nn.Embedding(12, 6), nn.Linear(6, 12, bias=False)
    head.weight = embedding.weight
    before = head.weight.detach().clone()
    layer = grown(layers.Embedding.from_layer(embedding, **NUMBERS))
    assert layer.weight is head.weight
    layer.merge()
    assert torch.equal(head.weight, before) and not torch.equal(layer.weight, before)


@pytest.mark.parametrize("kind", KINDS)
def test_eval_and_train_touch_no_weight_where_loralib_merges(kind):
    ours, theirs, x = pair(kind)
    before = ours.weight.detach().clone()
    for layer in (ours, theirs):
        layer.eval()
    assert torch.equal(ours.weight, before) and not ours.merged
    assert (weight_of(theirs) - before).abs().max() > 0.1 and theirs.merged
    same(ours(x), theirs(x), 1e-12)


def test_whether_it_is_merged_shows():
    layer = layers.Linear(8, 8, r=4, lora_alpha=16)
    assert "r=4, lora_alpha=16, merged=False" in repr(layer)
    layer.merge()
    assert "merged=True" in repr(nn.Sequential(layer))
    assert layer.merged


def test_merging_twice_is_refused_where_loralib_adds_twice():
    ours, theirs, x = pair("Linear")
    plain = F.linear(x, ours.weight, ours.bias)
    ours.merge()
    with pytest.raises(LessonError, match="merged already; a second merge would add LoRA twice"):
        ours.merge()
    once = ours(x) - plain
    theirs.eval()  # which is a merge
    theirs.weight.data += theirs.scaling * theirs.lora_B @ theirs.lora_A  # and this is the second
    same(theirs(x) - plain, 2 * once, 1e-10)


def test_unmerging_what_is_not_merged_is_refused():
    layer = layers.Linear(8, 8, **NUMBERS)
    with pytest.raises(LessonError, match="not merged, so there is nothing to unmerge"):
        layer.unmerge()
    layer.merge()
    layer.unmerge()
    with pytest.raises(LessonError, match="not merged"):
        layer.unmerge()


def test_saving_while_merged_is_refused_where_loralib_counts_twice(net):
    x = torch.randn(3, 8)
    ours = trained(with_lora(net()))
    ours[2].merge()
    for save in (ours.state_dict, ours[2].state_dict, lambda: layers.lora_state_dict(ours)):
        with pytest.raises(LessonError, match="'(2|model)' is merged.*would count LoRA twice.*unmerge"):
            save()
    ours[2].unmerge()
    assert set(ours.state_dict()) == set(with_lora(net()).state_dict())

    theirs, again = with_lora(net(), loralib), with_lora(net(), loralib)
    theirs.load_state_dict(ours.state_dict())
    y = theirs(x)
    again.load_state_dict(theirs.eval().state_dict())  # saved after an evaluation
    same(theirs(x), y, 1e-4)
    assert (again(x) - y).abs().max() > 0.1
    added = theirs[0].weight - again[0].lora_B @ again[0].lora_A * 4
    same(added, net()[0].weight, 1e-4)  # its W is W + delta, beside A and B


def test_loading_while_merged_is_refused_where_loralib_spoils_the_weight(net):
    saved = trained(with_lora(net())).state_dict()
    ours = with_lora(net())
    ours[0].merge()
    with pytest.raises(LessonError, match="'0' is merged"):
        ours.load_state_dict(saved)
    with pytest.raises(LessonError, match="'0' is merged"):
        layers.load(ours, lora=layers.lora_state_dict(trained(with_lora(net()))))

    theirs = with_lora(net(), loralib).eval()
    theirs.load_state_dict({name: it for name, it in saved.items() if "lora_" in name}, strict=False)
    x = torch.randn(3, 8)
    same(theirs(x), net()(x), 1e-6)  # A and B are there and take no part
    theirs.train()  # subtracts what was never added
    assert (theirs[0].weight - net()[0].weight).abs().max() > 0.1


# Saving and loading


def test_a_lora_state_dict_goes_through_a_file(net, tmp_path):
    model = trained(with_lora(net()))
    state = layers.lora_state_dict(model)
    assert {name for name in state if name.endswith(("lora_A", "lora_B"))} == set(
        loralib.lora_state_dict(with_lora(net(), loralib))
    )
    assert set(state) == {f"{at}.lora_{what}" for at in (0, 2) for what in ("A", "B", "base", "scaling")}
    safetensors.torch.save_file(state, tmp_path / "lora.safetensors")
    again = with_lora(net())
    layers.load(again, lora=safetensors.torch.load_file(tmp_path / "lora.safetensors"))
    x = torch.randn(3, 8)
    assert torch.equal(again(x), model(x)) and not torch.equal(again(x), net()(x))


def test_training_on_does_not_change_what_was_saved(net):
    model = trained(with_lora(net()))
    state = layers.lora_state_dict(model)
    before = state["0.lora_A"].clone()
    grown(model[0])
    assert torch.equal(state["0.lora_A"], before) and not state["0.lora_A"].requires_grad


def test_base_and_adapter_are_loaded_together_into_new_random_layers(net):
    model = trained(with_lora(net()))
    again = with_lora(net(seed=5))
    layers.load(again, net().state_dict(), layers.lora_state_dict(model))
    x = torch.randn(3, 8)
    assert torch.equal(again(x), model(x))
    layers.load(again, net(seed=6).state_dict(), layers.lora_state_dict(trained(with_lora(net(seed=6)))))
    assert torch.equal(again[0].weight, net(seed=6)[0].weight)


def test_loralib_and_we_read_each_others_adapters(net):
    model = trained(with_lora(net()))
    theirs, again = with_lora(net(), loralib), with_lora(net())
    theirs.load_state_dict(layers.lora_state_dict(model), strict=False)
    x = torch.randn(3, 8)
    same(theirs(x), model(x), 1e-4)
    with pytest.warns(UserWarning, match=r"no fingerprint for 2 layers \(0, 2\)"):
        layers.load(again, lora=loralib.lora_state_dict(theirs))
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_rounded_copy_of_the_base_is_the_same_base(dtype):
    torch.manual_seed(0)
    for _ in range(20):
        full = trained(with_lora(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))))
        plain = {name: it for name, it in full.state_dict().items() if "lora_" not in name}
        rounded = {name: it.to(dtype) for name, it in plain.items()}
        layers.load(copy.deepcopy(full), rounded, layers.lora_state_dict(full))
        layers.load(full, plain, layers.lora_state_dict(copy.deepcopy(full).to(dtype)))


def test_fingerprints_tell_weights_apart():
    """Unrelated, negated, shifted, larger, or with 5% of noise; 0.2% of noise is what rounding does."""
    torch.manual_seed(0)
    weight = torch.randn(64, 96)
    known = saving.fingerprint(weight)
    assert known.shape == (8,) and known[0] == pytest.approx(float(weight.square().mean().sqrt()))
    rolled = weight.roll(1, 0), weight.roll(1, 1)
    others = [torch.randn(64, 96), -weight, *rolled, weight * 1.05]
    others += [weight + 0.05 * torch.randn(64, 96) for _ in range(5)]
    for other in others:
        assert not saving._same(known, saving.fingerprint(other))
    assert saving._same(known, saving.fingerprint(weight + 0.002 * torch.randn(64, 96)))
    assert saving.fingerprint(torch.randn(6, 4, 3, 3)).shape == (8,)


def test_an_adapter_before_its_base_is_refused_where_loralib_takes_it(net):
    """The layers are new, their W is random: the adapter is loaded, and the base never, or too late."""
    model = trained(with_lora(net()))
    adapter = layers.lora_state_dict(model)
    ours = with_lora(net(seed=5))
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(LessonError, match="'0' was trained on another base weight. Load the base first"):
        layers.load(ours, lora=adapter)
    assert all(torch.equal(it, before[name]) for name, it in ours.state_dict().items())
    layers.load(ours, base=net().state_dict())
    layers.load(ours, lora=adapter)
    x = torch.randn(3, 8)
    assert torch.equal(ours(x), model(x))

    theirs = with_lora(net(seed=5), loralib)
    missing, unexpected = theirs.load_state_dict(loralib_part(adapter), strict=False)
    assert "0.weight" in missing and unexpected == []
    assert (theirs(x) - model(x)).abs().max() > 0.1
    # A checkpoint of the model as it was before training holds the base, and A and B as they started.
    checkpoint = with_lora(net(), loralib).state_dict()
    theirs.load_state_dict(checkpoint, strict=False)
    same(theirs(x), net()(x), 1e-6)  # the adapter is gone
    with pytest.raises(LessonError, match="'base' does not fit.*unexpected: 0.lora_A, 0.lora_B, 2.lora_A, "):
        layers.load(ours, base=checkpoint)


def loralib_part(state):
    return {name: it for name, it in state.items() if name.endswith(("lora_A", "lora_B"))}


def test_an_adapter_on_another_base_is_refused_where_loralib_takes_it(net):
    model = trained(with_lora(net()))
    adapter = layers.lora_state_dict(model)
    other = net()
    other[2].weight.data = net(seed=5)[2].weight.data
    with pytest.raises(LessonError, match="layer '2' was trained on another base weight"):
        layers.load(with_lora(net()), other.state_dict(), adapter)

    theirs = with_lora(net(), loralib)
    theirs.load_state_dict(other.state_dict(), strict=False)
    _, unexpected = theirs.load_state_dict(loralib_part(adapter), strict=False)
    x = torch.randn(3, 8)
    assert unexpected == [] and (theirs(x) - model(x)).abs().max() > 0.1


def test_a_base_with_lora_added_is_another_base(net):
    """What loralib saves after `.eval()`, taken for the base."""
    model = trained(with_lora(net()))
    theirs = with_lora(net(), loralib)
    theirs.load_state_dict(model.state_dict())
    merged = {name: it for name, it in theirs.eval().state_dict().items() if "lora_" not in name}
    with pytest.raises(LessonError, match="'0' was trained on another base weight.* no LoRA added"):
        layers.load(with_lora(net()), merged, layers.lora_state_dict(model))


def test_another_base_under_a_trained_adapter_is_refused(net):
    model = trained(with_lora(net()))
    layers.load(model, base=net().state_dict())
    with pytest.raises(LessonError, match="'0' was trained on another base weight"):
        layers.load(model, base=net(seed=5).state_dict())
    assert torch.equal(model[0].weight, net()[0].weight)
    fresh = with_lora(net())  # delta is zero: any base will do
    layers.load(fresh, base=net(seed=5).state_dict())
    assert torch.equal(fresh[0].weight, net(seed=5)[0].weight)


def test_another_scale_is_refused_where_loralib_takes_it(net):
    adapter = layers.lora_state_dict(trained(with_lora(net())))
    model = net()
    for at in ("0", "2"):
        model.set_submodule(at, layers.Linear.from_layer(model.get_submodule(at), r=2, lora_alpha=1))
    with pytest.raises(LessonError, match="'0' was trained with alpha / r = 4,.* 1 / 2 = 0.5. .*alpha=8"):
        layers.load(model, lora=adapter)
    theirs = loralib.Linear(8, 8, r=2)  # alpha 1, because nobody said anything
    theirs.load_state_dict({name: adapter[f"0.{name}"] for name in ("lora_A", "lora_B")}, strict=False)
    assert theirs.scaling == 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("2.lora_B"), "missing: 2.lora_B"),
        (lambda state: state.update({"1.lora_A": torch.zeros(1)}), "unexpected: 1.lora_A"),
        (
            lambda state: state.update({"0.lora_A": torch.zeros(4, 8)}),
            r"of another shape: 0.lora_A \(4, 8\), model \(2, 8\)",
        ),
        (
            lambda state: state.update({f"model.{name}": state.pop(name) for name in list(state)}),
            r"missing: 0.lora_A, 0.lora_B, 2.lora_A, ... \(4\); unexpected: model.0.lora_A",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(net, change, said):
    state = layers.lora_state_dict(trained(with_lora(net())))
    change(state)
    with pytest.raises(LessonError, match=f"'lora' does not fit the model: {said}"):
        layers.load(with_lora(net()), lora=state)


def test_the_two_files_exchanged_are_refused(net):
    adapter, base = layers.lora_state_dict(trained(with_lora(net()))), net().state_dict()
    with pytest.raises(LessonError, match="'base' does not fit the model: missing: 0.weight, 0.bias"):
        layers.load(with_lora(net()), adapter, base)
    language.use("vi")
    with pytest.raises(LessonError, match="'base' không khớp với mô hình: thiếu: 0.weight, 0.bias"):
        layers.load(with_lora(net()), adapter, base)


def test_loralibs_conv2d_does_not_find_a_pretrained_weight():
    """Its base is called conv.weight; with strict=False the pretrained one is passed over."""
    base = nn.Conv2d(4, 6, 3)
    theirs, ours = (where.Conv2d(4, 6, 3, **NUMBERS) for where in (loralib, layers))
    theirs.load_state_dict(base.state_dict(), strict=False)
    assert not torch.equal(theirs.conv.weight, base.weight)
    layers.load(ours, base=base.state_dict())
    assert torch.equal(ours.weight, base.weight)


def test_a_shared_weight_is_needed_under_one_name_only(tiny_llama):
    base = {name: it.clone() for name, it in tiny_llama.state_dict().items() if name != "lm_head.weight"}
    layers.replace(tiny_llama, ["q_proj"], **NUMBERS)
    table = layers.Embedding.from_layer(tiny_llama.get_input_embeddings(), **NUMBERS)
    tiny_llama.set_input_embeddings(table)
    assert tiny_llama.lm_head.weight is table.weight
    layers.load(tiny_llama, base=base)
    grown(table)
    state = layers.lora_state_dict(tiny_llama)
    moved = base.pop("model.embed_tokens.weight")
    layers.load(tiny_llama, {**base, "lm_head.weight": moved}, state)
    with pytest.raises(LessonError, match="'model.embed_tokens' was trained on another base weight"):
        layers.load(tiny_llama, {**base, "lm_head.weight": -moved}, state)
    with pytest.raises(LessonError, match="missing: model.embed_tokens.weight, lm_head.weight"):
        layers.load(tiny_llama, base=base)


# Into a model


def test_from_layer_keeps_the_parameters_where_loralib_makes_new_ones():
    base = nn.Linear(8, 6).eval()
    ours = layers.Linear.from_layer(base, r=2, lora_alpha=4, lora_dropout=0.5)
    assert ours.weight is base.weight and ours.bias is base.bias
    assert not ours.weight.requires_grad and not ours.bias.requires_grad
    assert ours.lora_A.requires_grad and ours.lora_B.requires_grad and ours.lora_A.any()
    assert not ours.training and ours.lora_dropout.p == 0.5
    x = torch.randn(3, 8)
    assert torch.equal(ours(x), base(x))
    assert (loralib.Linear(8, 6, r=2)(x) - base(x)).abs().max() > 1e-2
    assert layers.Linear.from_layer(nn.Linear(8, 6, bias=False), r=2, lora_alpha=4).bias is None


def test_from_layer_makes_no_second_random_weight():
    base = nn.Linear(8, 6)
    torch.manual_seed(0)
    made = layers.Linear.from_layer(base, r=2, lora_alpha=4)
    torch.manual_seed(0)
    same(made.lora_A, torch.empty(2, 8).uniform_(-(8**-0.5), 8**-0.5), 1e-6)


def test_from_layer_keeps_a_layers_settings():
    table = nn.Embedding(12, 6, padding_idx=2, scale_grad_by_freq=True)
    made = layers.Embedding.from_layer(table, **NUMBERS)
    assert made.padding_idx == 2 and made.scale_grad_by_freq
    conv = nn.Conv2d(
        4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False, padding_mode="reflect"
    ).double()
    made = grown(layers.Conv2d.from_layer(conv, **NUMBERS))
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    y = made(x)
    made.merge()
    same(made(x), y, 1e-12)
    made.unmerge()
    made.lora_B.data.zero_()
    assert torch.equal(made(x), conv(x))


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        (layers.Linear, nn.Embedding(4, 4)),
        (layers.Linear, layers.Linear(4, 4, **NUMBERS)),
        (layers.Embedding, nn.Linear(4, 4)),
        (layers.Conv2d, nn.Conv1d(4, 4, 3)),
    ],
)
def test_from_layer_takes_plain_layers_only(kind, layer):
    with pytest.raises(LessonError, match=f"from_layer takes an nn.{kind.plain.__name__} itself, not a "):
        kind.from_layer(layer, **NUMBERS)


def test_max_norm_is_refused():
    with pytest.raises(LessonError, match="With max_norm=1.0 every look-up writes into W"):
        layers.Embedding.from_layer(nn.Embedding(4, 4, max_norm=1.0), **NUMBERS)


def test_a_kernel_that_is_not_square_is_refused():
    with pytest.raises(LessonError, match=r"kernel_size=\(3, 5\) is not square"):
        layers.Conv2d(4, 4, (3, 5), **NUMBERS)


def test_alpha_has_no_default():
    """loralib's gives a scale of 1 / 16 at r 16."""
    with pytest.raises(TypeError, match="lora_alpha"):
        layers.Linear(8, 8, r=16)
    assert loralib.Linear(8, 8, r=16).scaling == 1 / 16
    assert layers.Linear(8, 8, r=16, lora_alpha=32).scaling == 2


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_out_of_range_are_refused(kind):
    with pytest.raises(LessonError, match="r=0 will not do: use r >= 1"):
        made(kind, r=0)
    with pytest.raises(LessonError, match="use alpha > 0"):
        made(kind, lora_alpha=0)
    if kind != "Embedding":
        with pytest.raises(LessonError, match="use 0 <= dropout < 1"):
            made(kind, lora_dropout=1.0)


def test_replace_keeps_weights_and_says_where():
    model = tiny_phi3()
    weights = {path: layer.weight for path, layer in lora.block_linears(model).items()}
    ids = torch.arange(6).unsqueeze(0)
    before = model(ids).logits
    paths = layers.replace(model, ["self_attn.qkv_proj", "down_proj"], r=2, lora_alpha=4, lora_dropout=0.1)
    assert paths == [
        f"model.layers.{at}.{end}" for at in (0, 1) for end in ("self_attn.qkv_proj", "mlp.down_proj")
    ]
    for path in paths:
        layer = model.get_submodule(path)
        assert type(layer) is layers.Linear and layer.weight is weights[path]
        assert (layer.r, layer.lora_alpha, layer.lora_dropout.p) == (2, 4, 0.1)
    assert torch.equal(model(ids).logits, before)
    assert type(model.model.layers[0].self_attn.o_proj) is nn.Linear


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["o_proj", "q_proj"], "is called 'q_proj'; did you mean .*qkv_proj"),
        (["lm_head"], "is called 'lm_head'. This model has: o_proj, qkv_proj, gate_up_proj, down_proj"),
        ("o_proj", "names='o_proj' is neither 'all' nor a list of names"),
        ([], "neither 'all' nor a list"),
    ],
)
def test_replace_refuses_names_that_match_nothing(names, said):
    model = tiny_phi3()
    with pytest.raises(LessonError, match=said):
        layers.replace(model, names, **NUMBERS)
    assert not any(isinstance(module, layers.LoraLayer) for module in model.modules())


def test_replace_refuses_as_a_whole():
    model = tiny_phi3()
    layers.replace(model, ["down_proj"], **NUMBERS)
    frozen = {name for name, it in model.named_parameters() if not it.requires_grad}
    with pytest.raises(LessonError, match="not a lessonlib.lora.layers.Linear"):
        layers.replace(model, "all", **NUMBERS)
    assert frozen == {name for name, it in model.named_parameters() if not it.requires_grad}
    assert len(layers.lora_layers(model)) == 2


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_what_is_trainable_and_saved_is_loralibs(net, bias):
    ours, theirs = with_lora(net()), with_lora(net(), loralib)
    for model in (ours, theirs):
        model.append(nn.BatchNorm1d(4))
    layers.mark_only_lora_as_trainable(ours, bias)
    loralib.mark_only_lora_as_trainable(theirs, bias)
    moving = [{name for name, it in model.named_parameters() if it.requires_grad} for model in (ours, theirs)]
    assert moving[0] == moving[1]
    biases = {"none": set(), "lora_only": {"0.bias", "2.bias"}, "all": {"0.bias", "2.bias", "3.bias"}}[bias]
    assert moving[0] == {"0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B"} | biases
    ours[0].bias.data.fill_(7.0)
    state = layers.lora_state_dict(ours, bias)
    notes = {name for name in state if name.endswith(("lora_base", "lora_scaling"))}
    assert set(state) - notes == set(loralib.lora_state_dict(theirs, bias)) == moving[0]
    again = with_lora(net()).append(nn.BatchNorm1d(4))
    layers.load(again, lora=state)
    assert bool((again[0].bias == 7).all()) == (bias != "none")


def test_marking_again_freezes_what_was_open(net):
    model = with_lora(net())
    layers.mark_only_lora_as_trainable(model, "all")
    model[0].lora_A.requires_grad_(False)
    layers.mark_only_lora_as_trainable(model)
    assert {name for name, it in model.named_parameters() if it.requires_grad} == {
        "0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B",
    }  # fmt: skip


def test_lora_only_opens_a_conv2ds_bias_where_loralib_forgets_it():
    ours, theirs = layers.Conv2d(4, 6, 3, **NUMBERS), loralib.Conv2d(4, 6, 3, **NUMBERS)
    layers.mark_only_lora_as_trainable(ours, "lora_only")
    loralib.mark_only_lora_as_trainable(theirs, "lora_only")
    assert ours.bias.requires_grad and not theirs.conv.bias.requires_grad


def test_a_layer_without_bias_is_no_trouble():
    pieces = layers.Embedding(4, 4, **NUMBERS), layers.Linear(4, 4, **NUMBERS, bias=False)
    model = nn.Sequential(*pieces)
    layers.mark_only_lora_as_trainable(model, "lora_only")
    assert not [name for name in layers.lora_state_dict(model, "lora_only") if "bias" in name]


@pytest.mark.parametrize("function", [layers.mark_only_lora_as_trainable, layers.lora_state_dict])
def test_another_bias_is_refused(net, function):
    with pytest.raises(LessonError, match="no bias='some'. Choose one of: none, lora_only, all"):
        function(with_lora(net()), bias="some")


@pytest.mark.parametrize(
    "function", [layers.mark_only_lora_as_trainable, layers.lora_state_dict, layers.load, layers.lora_layers]
)
def test_a_model_without_lora_is_refused(net, function):
    model = net()
    with pytest.raises(LessonError, match="no LoRA layers in Sequential. Call layers.replace"):
        function(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_layer_used_twice_is_saved_and_loaded_under_both_names(net):
    layer = grown(layers.Linear(8, 8, **NUMBERS))
    model = nn.Sequential(layer, nn.ReLU(), layer)
    state = layers.lora_state_dict(model)
    assert torch.equal(state["0.lora_A"], state["2.lora_A"])
    again = copy.deepcopy(model)
    layers.mark_only_lora_as_trainable(again)
    again[0].reset_lora()
    layers.load(again, lora=state)
    x = torch.randn(3, 8)
    assert torch.equal(again(x), model(x))
