"""Muon (Jordan, 2024) for the layers' matrices: momentum, orthogonalised by a Newton-Schulz iteration."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, distributed

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly (singular values about 0.7-1.2); matrices: (count, rows, columns)."""
    tall = matrices.shape[1] > matrices.shape[2]
    wide: Tensor = matrices.transpose(1, 2) if tall else matrices
    out: Tensor = (wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = out @ out.transpose(1, 2)
        out = a * out + (b * gram + c * (gram @ gram)) @ out
    result: Tensor = (out.transpose(1, 2) if tall else out).float()
    return result


class Muon:
    """Matrices of one shape are updated together, and the processes of a run share the iteration among them."""

    def __init__(self, parameters: Iterable[Tensor], rate: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        self.rate, self.momentum, self.decay = rate, momentum, decay
        groups: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            groups[tuple(parameter.shape)].append(parameter)
        self.groups = dict(groups)
        self.buffers = {shape: torch.zeros(len(group), *shape) for shape, group in self.groups.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Update all matrices from their gradients."""
        sharded = distributed.is_initialized()
        rank, world = (distributed.get_rank(), distributed.get_world_size()) if sharded else (0, 1)
        for shape, group in self.groups.items():
            gradients = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in group])
            buffer = self.buffers[shape]
            buffer.lerp_(gradients, 1 - self.momentum)
            nesterov = gradients.lerp(buffer, self.momentum)
            low, high = len(group) * rank // world, len(group) * (rank + 1) // world
            update = torch.zeros_like(nesterov)
            if high > low:
                update[low:high] = orthogonalise(nesterov[low:high])
            if sharded:
                distributed.all_reduce(update)
            # gives the update the root mean square of an AdamW step, so that one rate serves both
            scale = 0.2 * max(shape) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - self.rate * self.decay).add_(change, alpha=-self.rate * scale)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.groups.values():
            for parameter in group:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The momentum, for a checkpoint."""
        return {"buffers": self.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the momentum of a checkpoint."""
        for shape, buffer in state["buffers"].items():
            self.buffers[shape].copy_(buffer)
