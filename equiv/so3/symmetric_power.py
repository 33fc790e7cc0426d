r"""Every symmetric many-body coupling of a spherical tensor."""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3.coupling import wigner_3j

_MAX_ELEMENTS = 2**29  # 4 GiB of float64


def symmetric_couplings(
    l_in_max: int, degree: int, l_out: int
) -> Float[Tensor, "couplings m *inputs"]:
    r"""Orthonormal basis of all equivariant maps from a symmetric power to one irrep.

    .. math::
        B_{k m}(x) = \sum_{i_1 \dots i_\nu} U_{k m i_1 \dots i_\nu}\, x_{i_1} \cdots x_{i_\nu},
        \qquad \sum_{m i_1 \dots i_\nu} U_{k m i_1 \dots i_\nu} U_{k' m i_1 \dots i_\nu} = \delta_{k
        k'}

    Here :math:`x` is a spherical tensor of natural parity with degrees 0 to ``l_in_max``, so that
    each index :math:`i` runs over ``(l_in_max + 1) ** 2`` components, and :math:`B_k` is a
    spherical tensor of degree :math:`l` = ``l_out`` and parity :math:`(-1)^l`. :math:`U` is
    symmetric under permutations of :math:`i_1 \dots i_\nu`, and every map :math:`B(Rx) = D^l(R)
    B(x)`, rotations and reflections included, that is homogeneous of degree :math:`\nu` in
    :math:`x` is one linear combination of the :math:`B_k`. This is the complete and linearly
    independent many-body basis of the atomic cluster expansion (Drautz 2019).

    By Schur's lemma the components share the norm equally:
    :math:`\sum_i U_{k m i} U_{k' m' i} = \delta_{kk'} \delta_{mm'} / (2l + 1)`.

    The basis is canonical. Its members come in the lexicographic order of the multiset :math:`l_1
    \le \dots \le l_\nu` of input degrees that they mix; within one multiset the coupling trees
    :math:`((l_1 l_2) l_3) \dots` are symmetrised and orthogonalised by pivoted Gram-Schmidt, the
    tree with the largest remainder first and, among equals, the one with the smallest intermediate
    degrees. No eigenvector of a numerical library enters, so the numbers do not depend on it beyond
    rounding.

    Cost: ``couplings * (2 l_out + 1) * (l_in_max + 1) ** (2 degree)`` numbers; the part that takes
    thought is cached and small. For ``l_in_max=3``, ``degree=4`` it is a second at most.

    Args:
        l_in_max: highest degree of the input.
        degree: :math:`\nu`, how many factors.
        l_out: degree of the output.

    Returns:
        A new float64 tensor on the CPU of shape ``[couplings, 2 l_out + 1, n, ..., n]``, with one
        axis of length ``n = (l_in_max + 1) ** 2`` for each factor. ``couplings`` is
        :func:`num_symmetric_couplings` and can be 0.

    Raises:
        EquivError: an argument is not an integer in its range, or the result would exceed 4 GiB.
    """
    couplings = num_symmetric_couplings(l_in_max, degree, l_out)
    n = (l_in_max + 1) ** 2
    shape = (couplings, 2 * l_out + 1, *(n,) * degree)
    if math.prod(shape) > _MAX_ELEMENTS:
        raise EquivError(
            f"symmetric_couplings: l_in_max={l_in_max}, degree={degree}, l_out={l_out} needs "
            f"{math.prod(shape) * 8 / 2**30:.1f} GiB; lower l_in_max or degree"
        )
    u = np.zeros(shape)
    first = 0
    for ls in itertools.combinations_with_replacement(range(l_in_max + 1), degree):
        block = _multiset_couplings(ls, l_out)
        rows = slice(first, first + len(block))
        first += len(block)
        arrangements = {tuple(ls[i] for i in p): p for p in itertools.permutations(range(degree))}
        for (
            arranged,
            p,
        ) in arrangements.items():  # one per tuple: the block is symmetric among equal degrees
            where = tuple(slice(l * l, (l + 1) ** 2) for l in arranged)
            u[(rows, slice(None), *where)] = block.transpose(0, 1, *(2 + i for i in p))
        u[rows] /= math.sqrt(len(arrangements))
    if first != couplings:
        raise RuntimeError(
            f"found {first} couplings where representation theory counts {couplings}"
        )
    return torch.from_numpy(u)


def num_symmetric_couplings(l_in_max: int, degree: int, l_out: int) -> int:
    r"""Number of independent equivariant maps that :func:`symmetric_couplings` spans.

    .. math::
        N = n(l) - n(l + 1), \qquad
        n(M) = \#\Big\{ \text{multisets of } \nu \text{ pairs } (l_i, m_i) :
        \textstyle\sum_i m_i = M,\ (-1)^{\sum_i l_i} = (-1)^{l} \Big\}

    The multiplicity of a highest weight is the number of states with that weight less the number
    with the next.
    """
    for name, value, least in (
        ("l_in_max", l_in_max, 0),
        ("degree", degree, 1),
        ("l_out", l_out, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise EquivError(
                f"symmetric_couplings: {name} must be an integer of at least {least}, got {value!r}"
            )
    # states[factors][total m, parity] counts the multisets over the (l, m) seen so far
    states: list[Counter[tuple[int, int]]] = [Counter({(0, 0): 1})] + [
        Counter() for _ in range(degree)
    ]
    for l in range(l_in_max + 1):
        for m in range(-l, l + 1):
            for factors in range(1, degree + 1):  # upwards: the same (l, m) may enter again
                for (total, parity), count in states[factors - 1].items():
                    states[factors][total + m, (parity + l) % 2] += count
    final = states[degree]
    return final[l_out, l_out % 2] - final[l_out + 1, l_out % 2]


@functools.cache
def _multiset_couplings(ls: tuple[int, ...], l_out: int) -> np.ndarray:
    """Couplings [couplings, m, m1, m2, ...] of sorted degrees, symmetric among equal degrees."""
    axes = tuple(2 * l + 1 for l in ls)
    trees = list(_trees(ls, l_out)) if (sum(ls) + l_out) % 2 == 0 else []
    if not trees:
        return np.zeros((0, 2 * l_out + 1, *axes))
    raw = np.stack(trees) / math.sqrt(2 * l_out + 1)
    symmetric = np.zeros_like(raw)
    permutations = [
        p for p in itertools.permutations(range(len(ls))) if tuple(ls[i] for i in p) == ls
    ]
    for p in permutations:
        symmetric += raw.transpose(0, 1, *(2 + i for i in p))
    symmetric /= len(permutations)
    # the trees are orthonormal, so this is the orthogonal projection on the symmetric subspace
    projection = raw.reshape(len(raw), -1) @ symmetric.reshape(len(raw), -1).T
    return np.tensordot(_canonical_basis(projection), symmetric, axes=1)


def _trees(ls: tuple[int, ...], l_out: int) -> Iterator[np.ndarray]:
    """Isometric coupling trees [m, m1, m2, ...], smallest intermediate degrees first."""
    if len(ls) == 1:
        if ls[0] == l_out:
            yield np.eye(2 * l_out + 1)
        return
    *head, last = ls
    for between in range(abs(l_out - last), l_out + last + 1):
        w = math.sqrt(2 * l_out + 1) * wigner_3j(between, last, l_out).numpy()
        for tree in _trees(tuple(head), between):
            yield np.moveaxis(np.tensordot(tree, w, axes=(0, 0)), -1, 0)


def _canonical_basis(projection: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """Orthonormal rows spanning the range of a projection, by pivoted Gram-Schmidt."""
    remainder = projection.copy()
    basis = []
    for _ in range(round(float(np.trace(projection)))):
        norms = np.diagonal(remainder)  # squared norms, since the remainder is a projection too
        pivot = int(np.argmax(norms > norms.max() - tolerance))
        row = remainder[pivot] / math.sqrt(norms[pivot])
        row /= np.linalg.norm(row)
        basis.append(row)
        remainder = remainder - np.outer(row, row)
    return np.array(basis).reshape(-1, len(projection))
