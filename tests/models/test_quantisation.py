"""quantisation: against bitsandbytes' own round trip, a reference written out here, and numbers by hand."""

import math

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lessonlib.models import _loading as models
from lessonlib.models import _quantisation as quantisation
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError


@pytest.fixture(scope="module")
def weight():
    """256 rows of 192 numbers: 768 blocks of 64, which are 3 blocks of 256 scales."""
    return torch.randn(256, 192, generator=torch.Generator().manual_seed(0)) * 0.02


def nearest(weight, levels, blocksize):
    """Blockwise quantisation written out: each number over its block's absmax, to the nearest level."""
    blocks = weight.reshape(-1, blocksize)  # (blocks, blocksize)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    levels = torch.tensor(levels)
    chosen = ((blocks / scales)[..., None] - levels).abs().argmin(dim=-1)
    return (levels[chosen] * scales).reshape(weight.shape)


@pytest.mark.parametrize("blocksize", [32, 64, 256])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_the_error_is_that_of_the_nearest_levels(weight, quant_type, blocksize):
    table = quantisation.quantisation_error(weight, blocksize=blocksize, quant_type=quant_type)
    difference = weight - nearest(weight, quantisation.levels(quant_type), blocksize)
    assert table["double_quantisation"].tolist() == [False, True]
    # bitsandbytes' thresholds between levels are rounded: a few numbers in thousands may go the other way.
    assert table["relative_error"][0] == pytest.approx((difference.norm() / weight.norm()).item(), rel=1e-3)
    assert table["max_error"][0] == pytest.approx(difference.abs().max().item(), rel=1e-2)


def test_double_quantisation_is_bitsandbytes_own(weight):
    layer = bitsandbytes.nn.Linear4bit(192, 256, bias=False, quant_type="nf4", compress_statistics=True)
    layer.weight = bitsandbytes.nn.Params4bit(
        weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    layer = layer.to("cpu")  # quantises
    back = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    double = quantisation.quantisation_error(weight).iloc[1]
    difference = weight - back
    assert double["relative_error"] == pytest.approx((difference.norm() / weight.norm()).item(), rel=1e-6)
    assert double["max_error"] == pytest.approx(difference.abs().max().item(), rel=1e-6)


def test_bits_per_weight_by_hand(weight):
    plain, double = quantisation.quantisation_error(weight)["bits_per_weight"]
    assert plain == 4 + 32 / 64
    # 768 blocks fill their 3 nested blocks; the offset's 32 bits are shared by all
    assert double == pytest.approx(4 + 8 / 64 + 32 / (64 * 256) + 32 / weight.numel(), rel=1e-12)
    assert quantisation.quantisation_error(weight, blocksize=256)["bits_per_weight"][0] == 4 + 32 / 256


def test_normal_weights_fit_nf4_better_than_fp4_and_small_blocks_better_than_large(weight):
    def error(**options):
        return quantisation.quantisation_error(weight, **options)["relative_error"][0]

    assert error() < 0.8 * error(quant_type="fp4")
    assert error(blocksize=32) < error(blocksize=64) < error(blocksize=1024)


def test_a_weight_made_of_levels_comes_back_whole():
    levels = torch.tensor(quantisation.levels())
    table = quantisation.quantisation_error(levels.repeat(8) * 3.0)
    assert table["relative_error"][0] == table["max_error"][0] == 0
    assert quantisation.quantisation_error(torch.zeros(64))["relative_error"].tolist() == [0, 0]


def test_any_shape_and_float_type_will_do(weight):
    table = quantisation.quantisation_error(weight)
    halved = quantisation.quantisation_error(torch.nn.Parameter(weight.half().reshape(2, -1, 3)))
    assert halved["relative_error"][0] == pytest.approx(table["relative_error"][0], rel=0.01)
    values, back, stored = quantisation.round_trip(weight[:3, :7])  # 21 numbers: less than a block
    assert values.shape == back.shape == (3, 7)
    assert stored == 11 + 4


def test_the_16_levels():
    nf4, fp4 = quantisation.levels(), quantisation.levels("fp4")
    assert (nf4[0], nf4[7], nf4[-1]) == (-1, 0, 1) and nf4 == sorted(set(nf4)) and len(nf4) == 16
    assert math.isclose(nf4[8], 0.0796, abs_tol=1e-4)  # the paper's appendix E
    # sign, two bits of exponent, one of fraction: 0, 1/192 and 2, 3, 4, 6, 8, 12 twelfths
    expected = [0, 0.0625, 2, 3, 4, 6, 8, 12]
    assert [round(level * 12, 4) for level in fp4[8:]] == expected


@pytest.mark.parametrize("family", ["bloom", "llama", "phi3", "gemma2"])
def test_the_layers_are_those_that_transformers_quantises(family, request, tmp_path):
    model = request.getfixturevalue(f"tiny_{family}")
    chosen = quantisation.quantised_linears(model)
    models._keep_cpu_weights_in_place()
    model.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    real = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=config, device_map={"": "cpu"}
    )
    kind = bitsandbytes.nn.Linear4bit
    layers = {path: module for path, module in real.named_modules() if isinstance(module, kind)}
    assert list(chosen) == list(layers)
    assert "lm_head" not in chosen
    elements = [layer.weight.numel() for layer in chosen.values()]
    codes, constants = quantisation.stored_bytes(layers.values())
    assert quantisation.packed_bytes(elements) == codes
    assert quantisation.constant_bytes(elements) == constants
    assert sum(layer.weight.nbytes for layer in layers.values()) == codes


def test_a_config_may_name_the_layers_that_stay(tiny_llama):
    every = quantisation.quantised_linears(tiny_llama)
    some = quantisation.quantised_linears(tiny_llama, skip=["down_proj", "lm_head"])
    assert set(every) - set(some) == {f"model.layers.{n}.mlp.down_proj" for n in (0, 1)}
    assert "lm_head" in quantisation.quantised_linears(tiny_llama, skip=["down_proj"])  # transformers' rule


@pytest.mark.parametrize("elements", [1, 64, 65, 64 * 256, 64 * 256 + 1])
@pytest.mark.parametrize("double", [False, True])
def test_constants_of_blocks_that_are_not_full(elements, double):
    weight = bitsandbytes.nn.Params4bit(
        torch.randn(1, elements), requires_grad=False, quant_type="nf4", compress_statistics=double
    ).to("cpu")
    layer = torch.nn.Module()
    layer.weight = weight
    assert quantisation.stored_bytes([layer]) == (
        quantisation.packed_bytes([elements]), quantisation.constant_bytes([elements], double=double)
    )


def test_what_cannot_be_quantised_is_refused(weight):
    with pytest.raises(LessonError, match="no blocksize=100. bitsandbytes takes: 32, 64, .*4096"):
        quantisation.quantisation_error(weight, blocksize=100)
    for function in (quantisation.levels, lambda kind: quantisation.round_trip(weight, quant_type=kind)):
        with pytest.raises(LessonError, match="no quant_type='int4'. Choose 'nf4' or 'fp4'"):
            function("int4")
    with pytest.raises(LessonError, match="torch.uint8 with 49152 elements cannot be quantised"):
        quantisation.quantisation_error(weight.to(torch.uint8))
    with pytest.raises(LessonError, match="torch.float32 with 0 elements cannot be quantised"):
        quantisation.quantisation_error(weight[:0])
    with pytest.raises(LessonError, match="on the meta device"):
        quantisation.quantisation_error(weight.to("meta"))
    with pytest.raises(LessonError, match="NaN or infinity"):
        quantisation.quantisation_error(weight / 0)
    language.use("vi")
    with pytest.raises(LessonError, match="Không có blocksize=7. bitsandbytes nhận"):
        quantisation.quantisation_error(weight, blocksize=7)
