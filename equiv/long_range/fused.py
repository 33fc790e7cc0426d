"""Potentials with a fast first gradient that stay differentiable to any order."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.long_range.changes import changes_by_gradient
from equiv.long_range.pairs import Pairs, PairSums
from equiv.long_range.point_charges import PointCharges
from equiv.long_range.potential import Electrostatics, LongRangePotential, energies_of
from equiv.partial import partial_gradients


class FusedPotential(LongRangePotential):
    """A potential that computes energy and gradients together, chunk by chunk, in little memory.

    That is what :meth:`forward` calls, and a first gradient is there already when it is asked for.
    The gradient of a loss of forces or potentials needs one product with the second derivatives,
    :meth:`changes`. What goes beyond (gradients with respect to a cell that are differentiated
    again, third derivatives) goes through :meth:`energy`, an ordinary graph of tensor operations.
    """

    @abstractmethod
    def sums(self, system: PointCharges, pairs: Pairs | None, *, strain: bool) -> PairSums:
        """Potentials, fields and (if ``strain``) virials in eV, without a graph."""

    def changes(
        self, system: PointCharges, pairs: Pairs | None, moves: Float[Tensor, "atoms 4"]
    ) -> Float[Tensor, "atoms 4"]:
        """How potentials and forces change with changes of charges and positions; no graph."""
        return changes_by_gradient(lambda s: self.energy(s, pairs), system, moves)

    def energies(self, system: PointCharges, pairs: Pairs | None) -> Float[Tensor, " graphs"]:
        s = system
        return cast(Tensor, _Energy.apply(s.positions, s.charges, s.cell, s, self, pairs))

    def potentials_of(self, system: PointCharges, pairs: Pairs | None) -> Float[Tensor, " atoms"]:
        wants_graph = torch.is_grad_enabled() and system.requires_grad
        if wants_graph and system.cell.requires_grad:
            return super().potentials_of(system, pairs)
        known = self.sums(system.detached(), pairs, strain=False)
        if not wants_graph:
            return known.potentials
        return _Sums.apply(system.positions, system.charges, system, self, pairs, known)[0]

    def electrostatics(self, system: PointCharges, pairs: Pairs | None) -> Electrostatics:
        strain = any(map(all, system.periodic))
        return Electrostatics.of(system, self.sums(system, pairs, strain=strain))


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        charges: Tensor,
        cell: Tensor,
        system: PointCharges,
        potential: FusedPotential,
        pairs: Pairs | None,
    ) -> Tensor:
        system = system.detached()
        sums = potential.sums(system, pairs, strain=ctx.needs_input_grad[2])
        ctx.save_for_backward(positions, charges, cell, sums.potentials, sums.forces, sums.virials)
        ctx.system, ctx.potential, ctx.pairs = system, potential, pairs
        return energies_of(system, sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, q, cell, potentials, forces, virials = ctx.saved_tensors
        system, (grad,) = ctx.system, grads
        if torch.is_grad_enabled() and not ctx.needs_input_grad[2]:
            zero = virials.new_zeros(())
            known = PairSums(potentials, forces, forces, zero)
            again = replace(system, positions=x, charges=q, cell=cell)
            phi, force = _Sums.apply(x, q, again, ctx.potential, ctx.pairs, known)
            scale = grad.index_select(0, system.batch)
            on_positions = -scale.to(x.dtype)[:, None] * force.to(x.dtype)
            return on_positions, scale.to(q.dtype) * phi, None, None, None, None
        if torch.is_grad_enabled():

            def energy(x: Tensor, q: Tensor, cell: Tensor) -> Tensor:
                again = replace(system, positions=x, charges=q, cell=cell)
                return ctx.potential.energy(again, ctx.pairs)

            out = partial_gradients(energy, (x, q, cell), ctx.needs_input_grad[:3], grads)
            return (*out, None, None, None)
        scale = grad.index_select(0, system.batch)
        on_cell = None
        if ctx.needs_input_grad[2]:
            direct = system.per_graph(x[:, :, None] * forces.to(x.dtype)[:, None])
            on_cell = (grad[:, None, None] * _on_cell(system, virials + direct)).to(cell.dtype)
        return (
            -scale.to(x.dtype)[:, None] * forces.to(x.dtype),
            scale.to(q.dtype) * potentials,
            on_cell,
            None,
            None,
            None,
        )


class _Sums(torch.autograd.Function):
    """Potentials and forces, which are known already; their gradient is a product of changes."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        charges: Tensor,
        system: PointCharges,
        potential: FusedPotential,
        pairs: Pairs | None,
        known: PairSums,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(positions, charges)
        ctx.system, ctx.potential, ctx.pairs = system.detached(), potential, pairs
        return known.potentials.clone(), known.forces.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Symmetric second derivatives: what comes in are changes of charges and of minus positions.
        (x, q), system = ctx.saved_tensors, ctx.system
        if torch.is_grad_enabled():

            def sums(x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
                for tensor in (x, q):
                    tensor.requires_grad_()
                again = replace(system, positions=x, charges=q)
                energy = ctx.potential.energy(again, ctx.pairs).sum()
                phi, gradient = torch.autograd.grad(
                    energy, (q, x), create_graph=True, materialize_grads=True
                )
                return phi, -gradient

            out = partial_gradients(sums, (x, q), ctx.needs_input_grad[:2], grads)
            return (*out, None, None, None, None)
        moves = torch.cat([grads[0][:, None], -grads[1].to(q.dtype)], 1)
        out = ctx.potential.changes(system, ctx.pairs, moves)
        return -out[:, 1:].to(x.dtype), out[:, 0], None, None, None, None


def _on_cell(system: PointCharges, rest: Tensor) -> Tensor:
    r"""dE/dcell from what the strain does beside moving the atoms.

    :math:`dE/d\varepsilon = \sum_i r_i \otimes \partial_i E + C^T \partial E / \partial C`, where
    only rows of periodic directions count.
    """
    rows = system.cell.double() * system.pbc[..., None]
    return torch.linalg.pinv(rows.mT) @ rest.double()
