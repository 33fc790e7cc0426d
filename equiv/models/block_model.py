"""Models that work on rows of atoms and blocks of neighbours."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.errors import EquivError
from equiv.graph.layout import Layout, beyond, lay_out
from equiv.models.interface import Model, Prediction


class BlockModel(Model):
    r"""A potential in two steps: integers first, then a pure function of the geometry.

    .. math::
        E = \sum_i E_i(\{\vec r_p\}), \qquad g_p = \frac{\partial E}{\partial \vec r_p}, \qquad
        F_i = \sum_{p\,:\,\mathrm{first}(p) = i} g_p - \sum_{p\,:\,\mathrm{second}(p) = i} g_p,
        \qquad W = -\sum_p \vec r_p \otimes g_p

    :meth:`layout` sorts, counts, pads and joins edges with their reverses; :meth:`evaluate` holds
    all of the arithmetic and nothing that depends on data, so that a compiler makes one graph of it
    for all structures. Forces, virials and the atoms' shares of them follow from one gradient, with
    respect to the vectors :math:`\vec r_p` of the pairs. A concrete model implements
    :meth:`row_energies`.

    Geometry is computed in float64 whatever the dtype of the weights.
    """

    @abstractmethod
    def row_energies(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> Float[Tensor, " rows"]:
        """Energies of the rows' atoms in eV and float64, reference energies included.

        Args:
            vectors: from the first to the second atom of each pair, Angstrom, float64; pairs that
                pad lie twice the cutoff apart.
            layout: which row is what, and who its neighbours are.
        """

    def row_outputs(
        self, vectors: Float[Tensor, "pairs 3"], layout: Layout
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows channels"]]:
        """Energies as :meth:`row_energies`, and what is known of each atom that does not rotate.

        The invariants are what charges are read from (:class:`equiv.models.LongRangeModel`); there
        are :attr:`invariant_channels` of them.

        Raises:
            EquivError: the architecture does not offer them.
        """
        raise EquivError(f"{type(self).__name__} offers no invariant features to read charges from")

    @property
    def invariant_channels(self) -> int:
        """Number of invariants in :meth:`row_outputs`; 0 if there are none."""
        return 0

    def layout(self, batch: Any, *, padded: bool = False) -> Layout:
        """The integers that :meth:`evaluate` needs beside positions and cell.

        Args:
            batch: batched :class:`equiv.graph.AtomGraph`.
            padded: whether no size may be 0 or 1, as compiled code wants it.

        Raises:
            UnknownElementError: the batch holds elements the model does not know.
        """
        return lay_out(batch, self.species(batch.atomic_numbers), len(self.elements), padded=padded)

    def evaluate(
        self,
        positions: Float[Tensor, "rows 3"],
        cell: Float[Tensor, "structures 3 3"],
        layout: Layout,
        *,
        forces: bool = True,
        stress: bool = False,
        atomic_virials: bool = False,
        differentiable: bool = False,
    ) -> Prediction:
        """Predict what a layout arranges; per-atom results are in the order of its rows.

        Args:
            positions: of the rows (:meth:`equiv.graph.layout.Layout.geometry`), Angstrom, float64.
            cell: of the structures.
            layout: from :meth:`layout`.
            forces: whether to compute forces.
            stress: whether to compute stress and virials.
            atomic_virials: whether to compute the atoms' shares of the virials.
            differentiable: whether derivatives can be differentiated again.
        """
        derivatives = forces or stress or atomic_virials
        with torch.set_grad_enabled(derivatives or torch.is_grad_enabled()):
            vectors = layout.pair_vectors(positions, cell, padding=2 * self.cutoff)
            if derivatives and not vectors.requires_grad:
                vectors = vectors.detach().requires_grad_()
            energies = self.row_energies(vectors, layout)
            prediction = Prediction(layout.structures.total(energies), energies)
            if not derivatives:
                return prediction
            (gradient,) = torch.autograd.grad(energies.sum(), vectors, create_graph=differentiable)
        neighbors = layout.neighbors
        if forces:
            prediction.forces = -neighbors.divergence(gradient)
        if stress or atomic_virials:
            half = -0.5 * vectors.unsqueeze(-1) * gradient.unsqueeze(-2)
            shares = neighbors.sum_pairs(half)
            if atomic_virials:
                prediction.atomic_virials = shares
            if stress:
                virials = layout.structures.total(shares)
                prediction.virials = 0.5 * (virials + virials.mT)
                a, b, c = cell.unbind(1)
                volume = (a * torch.linalg.cross(b, c)).sum(-1).abs()
                volume = torch.where(volume > 0, volume, torch.nan)
                prediction.stress = -prediction.virials / volume[:, None, None]
        return prediction if differentiable else prediction.detached()

    def forward(
        self, batch: Any, *, forces: bool = True, stress: bool = False, atomic_virials: bool = False
    ) -> Prediction:
        """Predict a batch; see :meth:`equiv.models.Model.forward`."""
        layout = self.layout(batch)
        positions, cell = layout.geometry(batch)
        prediction = self.evaluate(
            positions,
            cell,
            layout,
            forces=forces,
            stress=stress,
            atomic_virials=atomic_virials,
            differentiable=self.training or batch.positions.requires_grad,
        )
        return in_batch_order(prediction, layout, batch.num_graphs)

    def atomic_energies(
        self, batch: Any, vectors: Float[Tensor, "edges 3"], species: Int[Tensor, " atoms"]
    ) -> Float[Tensor, " atoms"]:
        """Energies of the atoms in eV and float64, from flat edges."""
        layout = lay_out(batch, species, len(self.elements))
        return self.row_energies(self._of_pairs(vectors, layout), layout)[layout.rows]

    def atomic_outputs(
        self, batch: Any, vectors: Float[Tensor, "edges 3"], species: Int[Tensor, " atoms"]
    ) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "atoms channels"]]:
        """Energies and invariants of the atoms (:meth:`row_outputs`), from flat edges."""
        layout = lay_out(batch, species, len(self.elements))
        energies, invariants = self.row_outputs(self._of_pairs(vectors, layout), layout)
        return energies[layout.rows], invariants[layout.rows]

    def _of_pairs(
        self, vectors: Float[Tensor, "edges 3"], layout: Layout
    ) -> Float[Tensor, "pairs 3"]:
        padding = beyond(vectors, 2 * self.cutoff).unsqueeze(0)
        return torch.cat([vectors, padding])[layout.edges]


def in_batch_order(prediction: Prediction, layout: Layout, num_structures: int) -> Prediction:
    """Take a prediction from the order of the layout to that of the batch, without its ghosts."""

    def structures(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[:num_structures]

    def atoms(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[layout.rows]

    return Prediction(
        energy=prediction.energy[:num_structures],
        energies=prediction.energies[layout.rows],
        forces=atoms(prediction.forces),
        stress=structures(prediction.stress),
        virials=structures(prediction.virials),
        atomic_virials=atoms(prediction.atomic_virials),
        extras=prediction.extras,
    )
