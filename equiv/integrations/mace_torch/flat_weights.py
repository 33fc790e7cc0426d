"""How e3nn keeps weights: matrices end to end in one vector, normalised when they are used."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError

Terms = Sequence[tuple[int, int]]
"""Channels and degree of the terms of irreps."""


class FlatWeights:
    """A state dict that remembers what was taken from it.

    Args:
        state: parameters and buffers by name; they are read in float64 on the CPU.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.taken: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """One tensor, of a shape if given.

        Raises:
            EquivError: there is none, or of another shape.
        """
        if name not in self.state:
            raise EquivError(
                f"the mace-torch state has no tensor {name}; it is not of the form in the "
                "configuration"
            )
        self.taken.add(name)
        value = self.state[name].detach().to(device="cpu", dtype=torch.float64)
        if shape is not None and value.shape != shape:
            raise EquivError(
                f"the mace-torch tensor {name} has shape {tuple(value.shape)}, the configuration "
                f"asks for {shape}"
            )
        return value

    def blocks(self, name: str, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Matrices that e3nn keeps end to end in one vector."""
        flat = self.take(name).flatten()
        sizes = [math.prod(shape) for shape in shapes]
        if flat.numel() != sum(sizes):
            raise EquivError(
                f"the mace-torch tensor {name} has {flat.numel()} numbers, the configuration asks "
                f"for {sum(sizes)}; do hidden_irreps, max_ell and MLP_irreps belong to this state?"
            )
        parts = flat.split(sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def linear(
        self, name: str, terms_in: Terms, terms_out: Terms
    ) -> dict[int, Float[Tensor, "channels_in channels_out"]]:
        r"""The matrix of every degree in an ``e3nn.o3.Linear``, with its normalisation.

        .. math::
            y_l = x_l M_l, \qquad M_l = W_l / \sqrt{n_l}

        Terms of one degree stand below one another in the rows, side by side in the columns.
        """
        pairs = [
            (i, j)
            for i, (_, l_in) in enumerate(terms_in)
            for j, (_, l_out) in enumerate(terms_out)
            if l_in == l_out
        ]
        shapes = [(terms_in[i][0], terms_out[j][0]) for i, j in pairs]
        found = dict(zip(pairs, self.blocks(f"{name}.weight", shapes), strict=True))
        matrices = {}
        for l in {terms_in[i][1] for i, _ in pairs}:
            rows = [i for i, (_, degree) in enumerate(terms_in) if degree == l]
            columns = [j for j, (_, degree) in enumerate(terms_out) if degree == l]
            matrix = torch.cat([torch.cat([found[i, j] for j in columns], 1) for i in rows])
            matrices[l] = matrix / math.sqrt(matrix.shape[0])
        return matrices

    def drop(self, prefix: str) -> None:
        """Leave out what nothing of the model depends on."""
        self.taken.update(name for name in self.state if name.startswith(prefix))

    def refuse_leftovers(self) -> None:
        """See that everything was used.

        Raises:
            EquivError: something was not.
        """
        left = [
            name
            for name, value in self.state.items()
            if name not in self.taken and value.numel() and not _is_bookkeeping(name)
        ]
        if left:
            raise EquivError(
                f"the mace-torch state holds {len(left)} tensors that our model has no place for: "
                + ", ".join(sorted(left)[:5])
                + (" ..." if len(left) > 5 else "")
            )


def place(
    matrix: Float[Tensor, "rows columns"],
    shape: tuple[int, int],
    *,
    rows: Iterable[int] | None = None,
    columns: Iterable[int] | None = None,
) -> Float[Tensor, "new_rows new_columns"]:
    """Put rows and columns of a matrix where they belong in a larger one; -1 leaves them out."""
    for axis, positions in enumerate((rows, columns)):
        if positions is not None:
            index = torch.tensor(list(positions), dtype=torch.long)
            kept = index >= 0
            target = list(matrix.shape)
            target[axis] = shape[axis]
            matrix = matrix.new_zeros(target).index_copy_(
                axis, index[kept], matrix.index_select(axis, kept.nonzero().flatten())
            )
    if matrix.shape != shape:
        raise EquivError(f"a matrix of shape {tuple(matrix.shape)} was found where {shape} fits")
    return matrix


def _is_bookkeeping(name: str) -> bool:
    """Buffers of e3nn and mace-torch that follow from the shapes."""
    last = name.rsplit(".", 1)[-1]
    return (
        last in ("output_mask", "num_interactions") or last.endswith("_zeroed") or "_w3j_" in last
    )
