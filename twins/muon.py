"""Muon in float32, for pre-training twins on a CPU.

torch.optim.Muon computes the same in bfloat16. A CPU without bfloat16 units needs about five times as long
for that, and the optimiser then takes most of a step's time.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch

QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of Keller Jordan's iteration, torch's default


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal by Newton-Schulz iterations (kellerjordan.github.io/posts/muon).

    Arguments and result are those of `torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")` with Nesterov's
    momentum, but for the rounding.

    Args:
        params: matrices only.
        lr: step size; each step is scaled by 0.2 sqrt(max(rows, columns)), to be about as large as AdamW's.
        weight_decay: decoupled, as AdamW's.
        momentum: of the moving average of gradients.
        iterations: of Newton-Schulz.
    """

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, weight_decay: float = 0.1,
        momentum: float = 0.95, iterations: int = 5,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "iterations": iterations,
        })

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step for every matrix that has a gradient; those of one shape together."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for (rows, columns), matrices in alike.items():
                updates = torch.stack([self._update(matrix, group["momentum"]) for matrix in matrices])
                updates = orthogonal(updates, group["iterations"])  # (matrices, rows, columns)
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-group["lr"] * 0.2 * max(rows, columns) ** 0.5)

    def _update(self, matrix: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        state, gradient = self.state[matrix], matrix.grad
        assert gradient is not None
        average = state.setdefault("momentum_buffer", torch.zeros_like(matrix))
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def orthogonal(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """About the nearest matrices with orthonormal rows (or columns, where these are fewer).

    Args:
        matrices: (matrices, rows, columns).
        iterations: singular values then lie roughly between 0.7 and 1.2.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
