"""benchmarks/memory_gpu.py as far as it goes without a GPU: its models, its cases, its verdict."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import bitsandbytes
import pytest
import torch

from lessonlib.models import _loading as models
from lessonlib.models import _quantisation as quantisation
from lessonlib.training import _memory as memory

FILE = Path(__file__).parents[2] / "benchmarks" / "memory_gpu.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("memory_gpu", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_families_are_the_four_of_the_course(benchmark):
    kinds = {name: benchmark.configuration(name).model_type for name in benchmark.families()}
    assert set(models.CATALOGUE) <= set(kinds)
    assert {"bloom", "llama", "phi3", "gemma2"} <= set(kinds.values())


def test_gemma_2_2b_has_the_parameters_of_the_real_one(benchmark):
    """2.6 billion with its embeddings, which are the head too; a block by hand."""
    attention = 2304 * (8 * 256 + 2 * 4 * 256) + 8 * 256 * 2304
    block = attention + 3 * 2304 * 9216 + 4 * 2304
    numbers = 256_000 * 2304 + 26 * block + 2304
    assert numbers == 2_614_341_888
    plan = benchmark.planned("gemma-2-2b", "none", False, 1, 8).set_index("part")["bytes"]
    buffers = 2 * 128 * 4 + 2  # two of rotary frequencies in fp32, the embeddings' scale in fp16
    assert plan["weights"] == 2 * numbers + buffers


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("way", memory.QUANTISATIONS)
def test_a_model_is_built_and_trained(benchmark, tiny_llama, way, checkpointing):
    models._keep_cpu_weights_in_place()
    config = tiny_llama.config
    model = benchmark.build(config, way, checkpointing, "cpu")
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == (14 if way == "nf4" else 0)
    if layers:
        elements = [layer.weight.numel() for layer in quantisation.quantised_linears(tiny_llama).values()]
        assert quantisation.stored_bytes(layers) == (
            quantisation.packed_bytes(elements), quantisation.constant_bytes(elements)
        )
    before = [p.clone() for p in model.parameters() if p.requires_grad]
    loss = benchmark.train(model, config.vocab_size, 2, 16, 1, "cpu")
    assert loss > 0
    after = [p for p in model.parameters() if p.requires_grad]
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_its_verdict(benchmark):
    assert benchmark.judge(10.0, 10.9, 14.7) == ("measured 10.900, ratio 1.090", True)
    assert benchmark.judge(10.0, 8.9, 14.7)[1] is False
    assert benchmark.judge(10.0, 11.1, 14.7)[1] is False
    assert benchmark.judge(13.5, None, 14.7)[1] is True
    assert benchmark.judge(13.0, None, 14.7) == ("OUT OF MEMORY, though the plan fits", False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would run")
def test_without_a_gpu_it_says_in_a_line_what_it_would_do():
    done = subprocess.run([sys.executable, str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("No CUDA GPU here: on one, this would train bloom-560m, ")
