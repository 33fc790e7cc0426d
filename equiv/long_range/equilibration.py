"""Charges that minimise a quadratic energy, and their derivatives."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.long_range.pairs import Pairs
from equiv.long_range.potential import LongRangePotential


class ChargeEquilibration(nn.Module):
    r"""Charges of least energy at given electronegativities, hardnesses and total charge.

    .. math::
        q = \arg\min_{\sum_i q_i = Q}\; \sum_i \chi_i q_i + \tfrac12 \sum_i h_i q_i^2 + E_C[q]
        \qquad\Longleftrightarrow\qquad
        \begin{pmatrix} A & 1 \\ 1^\mathsf{T} & 0 \end{pmatrix}
        \begin{pmatrix} q \\ \lambda \end{pmatrix} = \begin{pmatrix} -\chi \\ Q \end{pmatrix},
        \qquad A = \operatorname{diag}(h) + K

    for every structure of a batch, where :math:`E_C = \tfrac12 q^\mathsf{T} K q` is ``potential``
    (Rappe and Goddard 1991). :math:`h = \eta + 2\gamma` is the hardness together with twice the
    self-energy :math:`\gamma q^2` of the charge, which :math:`E_C` does not contain.

    There is a minimum only if :math:`A` is positive definite on neutral charges. Point charges need
    hardnesses above the Madelung potential of their shortest distances (roughly 14.4 eV Angstrom
    / d * 1.75); with the long-range part alone (``short_range=False``) a :math:`2\gamma` of
    :math:`k_e K_L(0)` is always enough, because :math:`K_L` has a positive transform.

    The equations are solved by conjugate gradients on the subspace of fixed total charge,
    preconditioned by the diagonal; one evaluation of the potential per iteration. Derivatives are
    implicit: with :math:`g = \partial L / \partial q` and the adjoint

    .. math::
        \begin{pmatrix} A & 1 \\ 1^\mathsf{T} & 0 \end{pmatrix}
        \begin{pmatrix} u \\ \mu \end{pmatrix} = \begin{pmatrix} g \\ 0 \end{pmatrix},
        \qquad \delta L = -u^\mathsf{T} (\delta\chi + \delta A\, q) + \mu\, \delta Q ,

    one more solution whatever the number of parameters and iterations, differentiable in the same
    way to any order. For the energy at its own minimum :math:`g` is constant and :math:`u = 0`
    (Hellmann and Feynman): forces in molecular dynamics cost no adjoint iteration.

    Args:
        potential: :math:`E_C`.
        tolerance: of the residual, in the norm of the preconditioner, relative to the right side;
            not below ten roundings of the dtype.
        max_iterations: after which an error is raised.
    """

    def __init__(
        self, potential: LongRangePotential, *, tolerance: float = 1e-8, max_iterations: int = 300
    ) -> None:
        super().__init__()
        self.potential = potential
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def forward(
        self,
        electronegativities: Float[Tensor, " atoms"],
        hardnesses: Float[Tensor, " atoms"],
        total_charge: Float[Tensor, " graphs"],
        positions: Float[Tensor, "atoms 3"],
        cell: Float[Tensor, "graphs 3 3"] | None = None,
        pbc: Bool[Tensor, "graphs 3"] | None = None,
        batch: Int[Tensor, " atoms"] | None = None,
        pairs: Pairs | None = None,
    ) -> Float[Tensor, " atoms"]:
        """Charges in e, from electronegativities in V and hardnesses in V/e.

        Differentiable to any order in all floating tensors.
        """
        if not (hardnesses > 0).all():
            raise EquivError("hardnesses: expected positive numbers (V/e), got some that are not")
        if batch is None:
            batch = torch.zeros(len(positions), dtype=torch.long, device=positions.device)
        if cell is None:
            cell = positions.new_zeros(len(total_charge), 3, 3)
        if pbc is None:
            pbc = torch.zeros(len(total_charge), 3, dtype=torch.bool, device=positions.device)
        problem = _Problem(self, pbc, batch, pairs)
        return _Minimum.apply(
            problem, electronegativities, hardnesses, total_charge, positions, cell
        )

    def extra_repr(self) -> str:
        return f"tolerance={self.tolerance:g}, max_iterations={self.max_iterations}"


@dataclass(frozen=True)
class _Problem:
    """What is not differentiated."""

    equilibration: ChargeEquilibration
    pbc: Tensor
    batch: Tensor
    pairs: Pairs | None

    def energy(self, positions: Tensor, cell: Tensor, charges: Tensor) -> Tensor:
        potential = self.equilibration.potential
        return potential(positions, charges, cell, self.pbc, self.batch, self.pairs).sum()

    def potentials(self, positions: Tensor, cell: Tensor, charges: Tensor) -> Tensor:
        potential = self.equilibration.potential
        return potential.potentials(positions, charges, cell, self.pbc, self.batch, self.pairs)

    def per_graph(self, values: Tensor) -> Tensor:
        zeros = values.new_zeros(len(self.pbc), dtype=torch.float64)
        return zeros.index_add(0, self.batch, values.double())

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        return values.index_select(0, self.batch).to(like.dtype)

    def solve(
        self, chi: Tensor, h: Tensor, total: Tensor, positions: Tensor, cell: Tensor
    ) -> Tensor:
        """Projected, preconditioned conjugate gradients, all structures at once."""
        softness = self.per_graph(1 / h)

        def projected(residual: Tensor) -> Tensor:
            """Without the multiple of one that the Lagrange multiplier takes up."""
            return residual - self.spread(self.per_graph(residual / h) / softness, residual)

        def applied(q: Tensor) -> Tensor:
            return h * q + self.potentials(positions, cell, q)

        # Without interactions this would be the answer.
        q = (projected(-chi) + self.spread(total.double() / softness, chi)) / h
        tolerance = max(self.equilibration.tolerance, 10 * torch.finfo(chi.dtype).eps)
        limit = tolerance**2 * self.per_graph(chi**2 / h + h * q**2)
        residual = projected(-chi - applied(q))
        step = residual / h
        size = self.per_graph(residual * step)
        for _ in range(self.equilibration.max_iterations):
            active = size > limit
            if not bool(active.any()):
                return q
            image = applied(step)
            curvature = self.per_graph(step * image)
            if bool((active & (curvature <= 0)).any()):
                raise EquivError(
                    "charge equilibration has no minimum: opposite charges gain more by growing"
                    " than the hardnesses cost; make the hardnesses larger, or use a potential"
                    " without its short-range part"
                )
            length = torch.where(active, size / torch.where(active, curvature, 1.0), 0.0)
            q = q + self.spread(length, q) * step
            # Projected every time: rounding would otherwise leak into the total charge.
            residual = projected(residual - self.spread(length, q) * image)
            new = self.per_graph(residual**2 / h)
            ratio = torch.where(active, new / torch.where(active, size, 1.0), 0.0)
            step = residual / h + self.spread(ratio, q) * step
            size = torch.where(active, new, size)
        worst = float((size / limit).sqrt().nan_to_num(0.0).max()) * tolerance
        raise EquivError(
            f"charge equilibration did not converge in {self.equilibration.max_iterations}"
            f" iterations (relative residual {worst:.1e}); use a larger tolerance, float64, or"
            " larger hardnesses"
        )


class _Minimum(torch.autograd.Function):
    """The map from the data of the quadratic problem to its solution."""

    @staticmethod
    def forward(
        ctx: Any,
        problem: _Problem,
        chi: Tensor,
        h: Tensor,
        total: Tensor,
        positions: Tensor,
        cell: Tensor,
    ) -> Tensor:
        tensors = tuple(t.detach() for t in (chi, h, total, positions, cell))
        q = problem.solve(*tensors)
        ctx.problem = problem
        ctx.save_for_backward(h, positions, cell, total, q)
        return q

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        problem: _Problem = ctx.problem
        h, positions, cell, total, q = ctx.saved_tensors
        (g,) = gradients
        u = _Minimum.apply(problem, -g, h, torch.zeros_like(total), positions, cell)
        d_total = d_positions = d_cell = None
        if ctx.needs_input_grad[3]:
            count = problem.per_graph(torch.ones_like(q))
            image = h * u + problem.potentials(positions, cell, u)
            d_total = (problem.per_graph(g - image) / count).to(total.dtype)
        if ctx.needs_input_grad[4] or ctx.needs_input_grad[5]:
            d_positions, d_cell = _slopes(problem, positions, cell, u, q)
        return None, -u, -u * q, d_total, d_positions, d_cell


def _slopes(
    problem: _Problem, positions: Tensor, cell: Tensor, u: Tensor, q: Tensor
) -> tuple[Tensor, ...]:
    r"""Partial derivatives of :math:`-u^\mathsf{T} K q = \tfrac12 (E_C[q - u] - E_C[q + u])`."""
    again = torch.is_grad_enabled()
    if not again:
        u, q = u.detach(), q.detach()
        positions, cell = positions.detach().requires_grad_(), cell.detach().requires_grad_()
    with torch.enable_grad():
        # New names for the same tensors: u and q depend on the old ones.
        moved, strained = positions.view_as(positions), cell.view_as(cell)
        if not strained.requires_grad:
            strained = strained.detach().requires_grad_()
        if not moved.requires_grad:
            moved = moved.detach().requires_grad_()
        form = problem.energy(moved, strained, q - u) - problem.energy(moved, strained, q + u)
        return torch.autograd.grad(
            0.5 * form, (moved, strained), create_graph=again, materialize_grads=True
        )
