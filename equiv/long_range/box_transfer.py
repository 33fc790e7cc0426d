"""Between charges and coefficients with compiled kernels, and the changes of both."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equiv.long_range import box_kernels
from equiv.long_range.boxes import Boxes, BoxTransfer

# So many numbers of the grid are worked on at a time: they stay in the cache.
CHUNK = 2**17


class CompiledTransfer:
    r"""What :class:`equiv.long_range.boxes.BoxTransfer` does, and the changes of it.

    Args:
        local: coordinates of each charge in its box, in [-1, 1].
        cells: the box of each charge along each axis.
        shape: boxes along each axis.
        matrices: for each axis the functions whose coefficients are wanted, as Chebyshev
            coefficients on each of its boxes.
    """

    def __init__(
        self,
        local: Float[Tensor, "atoms 3"],
        cells: Int[Tensor, "atoms 3"],
        shape: tuple[int, int, int],
        matrices: Sequence[Float[Tensor, "nodes functions"]],
    ) -> None:
        self.local, self.shape, self.matrices = local, shape, matrices
        self.nodes = len(matrices[0]) // shape[0]
        n1, n2, n3 = shape
        flat = (cells[:, 0] * n2 + cells[:, 1]) * n3 + cells[:, 2]
        self.order, self.starts = box_kernels.sort_into_boxes(flat, n1 * n2 * n3)

    def _layers(self) -> Iterator[tuple[int, tuple[int, int, int], Tensor]]:
        """First layer of boxes, shape of a few layers, and where their boxes begin."""
        n1, n2, n3 = self.shape
        step = max(1, CHUNK // (n2 * n3 * self.nodes**3))
        for first in range(0, n1, step):
            layers = min(step, n1 - first)
            starts = self.starts[first * n2 * n3 : (first + layers) * n2 * n3 + 1]
            yield first, (layers, n2, n3), starts

    def _grid(self, shape: tuple[int, int, int]) -> Tensor:
        p = self.nodes
        return self.local.new_empty(shape[0] * p, shape[1] * p, shape[2] * p)

    def coefficients(self, charges: Tensor, moves: Tensor | None = None) -> Tensor:
        r"""The moments of all boxes times the matrices.

        With ``moves`` [atoms, 4], changes of the charge and of the three coordinates, it is the
        change of the coefficients.
        """
        p, (along_x, along_y, along_z) = self.nodes, self.matrices
        atoms = self._table(charges, moves)
        layers = atoms.new_empty(len(along_x), along_y.shape[1] * along_z.shape[1])
        for first, shape, starts in self._layers():
            grid = self._grid(shape)
            box_kernels.moments(starts, self.order, atoms, grid, shape, p)
            in_y = torch.matmul(along_y.T, grid @ along_z)
            layers[first * p : (first + shape[0]) * p] = in_y.flatten(1)
        return (along_x.T @ layers).view(-1, along_y.shape[1], along_z.shape[1])

    def fields(
        self, coefficients: Float[Tensor, "rx ry rz"]
    ) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "atoms 3"]]:
        r"""Potential and gradient in the local coordinates at each charge."""
        out = self._at_atoms(coefficients, self._table(self.local[:, 0], None), 4)
        return out[:, 0], out[:, 1:]

    def changes(
        self,
        charges: Float[Tensor, " atoms"],
        moves: Float[Tensor, "atoms 4"],
        product: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "atoms 4"]:
        r"""How potentials and gradients of the energy change, if all charges and places do.

        With the charges of moved atoms :math:`q_i` that change by :math:`\delta q_i` while the atom
        moves by :math:`u_i`, in the local coordinates of its box:

        .. math:: \delta\phi_i = \phi'(r_i) + u_i \cdot \nabla\phi(r_i), \qquad
            \delta(q_i \nabla\phi_i) = \delta q_i \nabla\phi(r_i)
            + q_i \big(\nabla\phi'(r_i) + (u_i \cdot \nabla) \nabla\phi(r_i)\big)

        where :math:`\phi'` is the potential of the changes.

        Args:
            charges: :math:`q_i`.
            moves: :math:`\delta q_i` and :math:`u_i`.
            product: from coefficients to those of the potential.
        """
        potential = product(self.coefficients(charges))
        change = product(self.coefficients(charges, moves))
        at = self._at_atoms(potential, self._table(charges, moves), 7)
        out = self._at_atoms(change, self._table(charges, None), 4)
        out[:, 0] += (moves[:, 1:] * at[:, 1:4]).sum(1)
        out[:, 1:] += at[:, 4:]
        out[:, 1:] *= charges[:, None]
        out[:, 1:] += moves[:, :1] * at[:, 1:4]
        return out

    def _table(self, charges: Tensor, moves: Tensor | None) -> Tensor:
        columns = [self.local, charges[:, None]]
        return torch.cat(columns if moves is None else [*columns, moves], 1)

    def _at_atoms(self, coefficients: Tensor, atoms: Tensor, columns: int) -> Tensor:
        p, (along_x, along_y, along_z) = self.nodes, self.matrices
        flat = coefficients.flatten(1)
        out = flat.new_empty(len(atoms), columns)
        for first, shape, starts in self._layers():
            layers = along_x[first * p : (first + shape[0]) * p] @ flat
            in_y = torch.matmul(along_y, layers.view(-1, *coefficients.shape[1:]))
            grid = in_y @ along_z.T
            box_kernels.fields(starts, self.order, atoms, grid, shape, p, out)
        return out


def is_compiled(like: Tensor) -> bool:
    """Whether there are kernels for tensors like this one."""
    return (
        like.device.type == "cpu"
        and like.dtype in (torch.float32, torch.float64)
        and box_kernels.library() is not None
    )


def transfer(
    local: Float[Tensor, "atoms 3"],
    cells: Int[Tensor, "atoms 3"],
    shape: tuple[int, int, int],
    matrices: Sequence[Float[Tensor, "nodes functions"]],
) -> CompiledTransfer | BoxTransfer:
    """With compiled kernels where there are any."""
    if is_compiled(local):
        return CompiledTransfer(local, cells, shape, matrices)
    return BoxTransfer(local, Boxes.sorted(cells, shape), matrices)
