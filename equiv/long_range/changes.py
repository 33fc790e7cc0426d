"""How potentials and forces change with charges and positions: products of second derivatives."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.long_range.point_charges import PointCharges


def changes_by_gradient(
    energy: Callable[[PointCharges], Tensor], system: PointCharges, moves: Tensor
) -> Float[Tensor, "atoms 4"]:
    """How potentials and forces of an energy change with ``moves`` of charges and positions."""
    with torch.enable_grad():
        x, q = system.positions.detach().requires_grad_(), system.charges.detach().requires_grad_()
        total = energy(replace(system, positions=x, charges=q, cell=system.cell.detach())).sum()
        if not total.requires_grad:  # no charge has another to act on
            return torch.zeros_like(moves)
        phi, gradient = torch.autograd.grad(total, (q, x), create_graph=True)
        # Second derivatives are symmetric: the change along the moves is their gradient.
        on_q, on_x = torch.autograd.grad(
            (phi, gradient),
            (q, x),
            (moves[:, 0], moves[:, 1:].to(x.dtype)),
            materialize_grads=True,
        )
    return torch.cat([on_q[:, None], -on_x.to(q.dtype)], 1)
