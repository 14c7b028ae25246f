"""Muon in float32 against torch's own, which rounds to bfloat16."""

import pytest
import torch

from twins.muon import Muon, orthogonal

SHAPES = [(16, 16), (32, 16), (8, 16), (16, 16)]


def matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in SHAPES]


def test_five_steps_are_those_of_torch_but_for_its_rounding():
    ours, theirs, start = matrices(), matrices(), matrices()
    first = Muon(ours, lr=0.02, weight_decay=0.1)
    second = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        first.step()
        second.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = (b - before).abs().mean()
        assert (a - b).abs().mean() < 0.02 * moved  # bfloat16 has 8 bits


def test_what_has_no_gradient_stays_and_the_schedule_is_followed():
    first, second = matrices()[:2]
    optimiser = Muon([first, second], lr=0.1, weight_decay=0.0)
    before = [first.detach().clone(), second.detach().clone()]
    first.grad = torch.randn(first.shape, generator=torch.Generator().manual_seed(2))
    optimiser.param_groups[0]["lr"] = 0.05
    optimiser.step()
    assert torch.equal(second, before[1])
    # an orthogonal matrix of n x n has a mean square of 1/n; times 0.2 sqrt(n): 0.2 a number
    size = (first - before[0]).square().mean().sqrt().item()
    assert size == pytest.approx(0.05 * 0.2, rel=0.2)


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 40, 16), (2, 16, 40)])
def test_singular_values_come_near_one(shape):
    generator = torch.Generator().manual_seed(3)
    given = torch.randn(*shape, generator=generator)
    values = torch.linalg.svdvals(orthogonal(given, iterations=8))
    assert values.max() < 1.3 and values.min() > 0.5
    assert torch.linalg.svdvals(given).max() / torch.linalg.svdvals(given).min() > 2
