"""What every interatomic potential of the package is to the rest of it."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.models.abstract import AbstractModel


@dataclass
class Prediction:
    r"""What a model says about a batch of structures.

    Attributes:
        energy: total energies, eV, float64. Shape ``[graphs]``.
        energies: energies of the atoms, eV, float64; they sum to ``energy``. Shape ``[atoms]``.
        forces: :math:`-\partial E / \partial r_i`, eV/Angstrom. Shape ``[atoms, 3]``.
        stress: :math:`\partial E / \partial \epsilon / V`, eV/Angstrom^3, tension positive; NaN
            for structures without
            a volume. Shape ``[graphs, 3, 3]``.
        virials: :math:`-\partial E / \partial \epsilon`, eV. Shape ``[graphs, 3, 3]``.
        atomic_virials: the share of each atom in ``virials``, half of each of its edges, eV. Shape
            ``[atoms, 3, 3]``.
        extras: what else the architecture predicts.
    """

    energy: Float[Tensor, " graphs"]
    energies: Float[Tensor, " atoms"]
    forces: Float[Tensor, "atoms 3"] | None = None
    stress: Float[Tensor, "graphs 3 3"] | None = None
    virials: Float[Tensor, "graphs 3 3"] | None = None
    atomic_virials: Float[Tensor, "atoms 3 3"] | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def detached(self) -> "Prediction":
        """The same numbers, cut off from the computation that made them."""
        return Prediction(
            self.energy.detach(),
            self.energies.detach(),
            *(
                None if x is None else x.detach()
                for x in (self.forces, self.stress, self.virials, self.atomic_virials)
            ),
            extras={name: value.detach() for name, value in self.extras.items()},
        )


class Model(AbstractModel):
    r"""An interatomic potential: energies of atoms and all that follows by differentiation.

    .. math::
        E = \sum_i E_i(\{r_{ij}\}), \qquad F_i = -\frac{\partial E}{\partial r_i}, \qquad
        \sigma = \frac{1}{V} \frac{\partial E}{\partial \epsilon}

    Here :math:`r_{ij}` are the edge vectors of the neighbour list and :math:`\epsilon` a symmetric
    strain of cell and positions. A concrete model implements :meth:`atomic_energies` and nothing
    else of this.

    Geometry is computed in float64 whatever the dtype of the weights, and energies are summed in
    float64.

    Attributes:
        extra_properties: names of what predictions carry in their ``extras``.
        long_ranged: whether atoms act on each other at any distance.
    """

    extra_properties: ClassVar[tuple[str, ...]] = ()
    long_ranged: ClassVar[bool] = False
    cutoff: float  # pyright: ignore[reportIncompatibleVariableOverride]  (never None here)

    def __init__(self, elements: Sequence[int], cutoff: float) -> None:
        super().__init__(elements, cutoff)

    @property
    def exact_rotations(self) -> Float[Tensor, "rotations 3 3"] | None:
        """Rotations under which energies are the same to rounding; ``None`` for all of them.

        Most potentials are invariant by construction. One that is not says here what it is sure of,
        and :func:`equiv.models.equivariance_error` measures the rest.
        """
        return None

    @abstractmethod
    def atomic_energies(
        self, batch: Any, vectors: Float[Tensor, "edges 3"], species: Int[Tensor, " atoms"]
    ) -> Float[Tensor, " atoms"]:
        """Energies of the atoms in eV and float64, reference energies included.

        Args:
            batch: the structures (:class:`equiv.graph.AtomGraph`, batched).
            vectors: edge vectors from receiver to sender, Angstrom, float64.
            species: position of every atom's element in :attr:`elements`.
        """

    def forward(
        self, batch: Any, *, forces: bool = True, stress: bool = False, atomic_virials: bool = False
    ) -> Prediction:
        """Predict a batch.

        The outputs can be differentiated again if the model is in training mode or
        ``batch.positions`` require a gradient; otherwise they are detached.

        Args:
            batch: batched :class:`equiv.graph.AtomGraph`.
            forces: whether to compute forces.
            stress: whether to compute stress and virials.
            atomic_virials: whether to compute the atoms' shares of the virials.

        Raises:
            UnknownElementError: the batch holds elements the model does not know.
        """
        species = self.species(batch.atomic_numbers)
        derivatives = forces or stress or atomic_virials
        differentiable = self.training or batch.positions.requires_grad
        with torch.set_grad_enabled(derivatives or torch.is_grad_enabled()):
            positions, cell = batch.positions, batch.cell
            variables: list[Tensor] = []
            if forces:
                positions = (
                    positions if positions.requires_grad else positions.detach().requires_grad_()
                )
                variables.append(positions)
            moved = positions
            if stress:
                strain = torch.zeros_like(cell).requires_grad_()
                variables.append(strain)
                deformation = 0.5 * (strain + strain.mT)
                moved = positions + torch.einsum("ni,nij->nj", positions, deformation[batch.batch])
                cell = cell + cell @ deformation
            shifts = torch.einsum("ei,eij->ej", batch.shifts, cell[batch.batch[batch.receivers]])
            vectors = moved[batch.senders] + shifts - moved[batch.receivers]
            if atomic_virials:
                vectors = vectors if vectors.requires_grad else vectors.requires_grad_()
                variables.append(vectors)
            prediction = self.predict_energy(batch, moved, cell, vectors, species)
            if derivatives:
                gradients = _gradients(prediction.energy, variables, differentiable)
                if forces:
                    prediction.forces = -gradients.pop(0)
                if stress:
                    prediction.virials = -gradients.pop(0)
                    volume = torch.linalg.det(batch.cell).abs()
                    volume = torch.where(volume > 0, volume, torch.nan)
                    prediction.stress = -prediction.virials / volume[:, None, None]
                if atomic_virials:
                    share = -0.5 * vectors.unsqueeze(-1) * gradients.pop(0).unsqueeze(-2)
                    zeros = share.new_zeros(batch.positions.shape[0], 3, 3)
                    prediction.atomic_virials = zeros.index_add(0, batch.senders, share).index_add(
                        0, batch.receivers, share
                    )
        if derivatives and not differentiable:
            return prediction.detached()
        return prediction

    def predict_energy(
        self,
        batch: Any,
        positions: Float[Tensor, "atoms 3"],
        cell: Float[Tensor, "graphs 3 3"],
        vectors: Float[Tensor, "edges 3"],
        species: Int[Tensor, " atoms"],
    ) -> Prediction:
        """Energies without their derivatives, as a function of positions, cell and edge vectors.

        Here the sum of :meth:`atomic_energies`; a model whose energy does not follow from its edges
        alone overrides this.
        """
        energies = self.atomic_energies(batch, vectors, species)
        energy = energies.new_zeros(batch.num_graphs).index_add(0, batch.batch, energies)
        return Prediction(energy=energy, energies=energies)

    def hessian(self, batch: Any) -> Float[Tensor, "coordinates coordinates"]:
        r"""Second derivatives of the energy of one structure.

        .. math::
            H_{i\alpha, j\beta} = \partial^2 E / \partial r_{i\alpha}\, \partial r_{j\beta}

        Rows and columns run over atoms, then x, y, z; eV/Angstrom^2, float64. Cost: one backward
        pass per row.
        """
        if batch.num_graphs != 1:
            raise ValueError(
                f"hessian takes one structure at a time, got a batch of {batch.num_graphs}"
            )
        structure = copy(batch)
        structure.positions = batch.positions.detach().clone().requires_grad_()
        forces = self(structure).forces
        size = forces.numel()
        if not forces.requires_grad:
            return forces.new_zeros(size, size)
        rows = [
            -torch.autograd.grad(component, structure.positions, retain_graph=True)[0].flatten()
            for component in forces.flatten()
        ]
        hessian = torch.stack(rows) if rows else forces.new_zeros(0, 0)
        return 0.5 * (hessian + hessian.mT)

    def loss_terms(self, prediction: Prediction, batch: Any) -> dict[str, Tensor]:
        """Further terms of the training loss by name, each added with weight one."""
        return {}

    def metrics(self, prediction: Prediction, batch: Any) -> dict[str, float]:
        """Further numbers an architecture wants in the training log, by name."""
        return {}

    def compile(  # type: ignore[override]
        self, mode: str = "on", *, report: Callable[[str], None] | None = None
    ) -> None:
        """Let compiled code answer calls of this model, in place.

        One graph serves structures of all sizes. It is built on the first call that can use it
        (a minute or so; later runs find it in the cache) and compared with the model in float64
        before it is used; if anything fails, calls are answered as before and the reason is
        reported. Predictions that are to be differentiated again are not compiled. Copies of the
        model are not compiled either.

        Args:
            mode: `on`; `off`, which undoes it; or `auto`: once so much has been evaluated that it
                pays (:mod:`equiv.models.compiled.worth`), and on a CPU.
            report: gets one line for everything that is compiled or cannot be; by default they go
                to the standard error.

        Raises:
            EquivError: no such mode.
        """
        from equiv.models.compiled.evaluation import compile_model

        self._compiled_call_impl = compile_model(self, mode, report)


def _gradients(energy: Tensor, variables: list[Tensor], differentiable: bool) -> list[Tensor]:
    if not energy.requires_grad:  # no atom has a neighbour: nothing depends on the geometry
        return [torch.zeros_like(v) for v in variables]
    gradients = torch.autograd.grad(
        energy.sum(), variables, create_graph=differentiable, allow_unused=True
    )
    return [
        torch.zeros_like(v) if g is None else g for g, v in zip(gradients, variables, strict=True)
    ]
