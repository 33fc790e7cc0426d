"""Irreducible representations of O(3): e3nn's, read with errors that say what is wrong."""

from collections import Counter
from typing import cast

from e3nn.o3 import Irrep, Irreps

from equiv.errors import EquivError

__all__ = ["Irrep", "Irreps", "natural_irreps", "parse_irreps", "spherical_shape"]


def parse_irreps(irreps: str | Irreps, name: str = "irreps") -> Irreps:
    """Irreps from a string such as ``"16x0e + 8x1o"``, in the order written.

    Each term is ``multiplicity x degree parity``, the multiplicity optional, with parity ``e``
    (even) or ``o`` (odd) under inversion: ``0e`` scalar, ``0o`` pseudoscalar, ``1o`` vector, ``1e``
    pseudovector.

    Args:
        irreps: a string, an ``Irreps``, or what ``e3nn.o3.Irreps`` takes.
        name: what to call it in an error.

    Raises:
        EquivError: it cannot be read; names the term that is wrong.

    >>> parse_irreps("16x0e + 8x1o").dim
    40
    """
    if isinstance(irreps, Irreps):
        return irreps
    if not isinstance(irreps, str):
        try:
            return cast(Irreps, Irreps(irreps))
        except Exception as error:
            raise EquivError(
                f"{name}: expected irreps such as '16x0e + 8x1o', got {irreps!r} ({error})"
            ) from error
    for term in irreps.split("+") if irreps.strip() else []:
        try:
            Irreps(term)
        except ValueError as error:
            raise EquivError(
                f"{name}: cannot read {term.strip()!r} in {irreps!r}; a term is 'multiplicity x "
                "degree parity' with parity e or o, such as '16x0e' or '8x1o'"
            ) from error
    return cast(Irreps, Irreps(irreps))


def natural_irreps(l_max: int, channels: int) -> Irreps:
    r"""Irreps :math:`\bigoplus_{l=0}^{l_\text{max}} C \times l^{(-1)^l}` of a spherical tensor.

    Natural parity is that of the spherical harmonics: ``0e + 1o + 2e + 3o + ...``.

    >>> natural_irreps(2, 16)
    16x0e+16x1o+16x2e
    """
    if l_max < 0 or channels < 0:
        raise EquivError(
            f"natural_irreps: l_max and channels cannot be negative, got {l_max} and {channels}"
        )
    return cast(Irreps, Irreps([(channels, (l, (-1) ** l)) for l in range(l_max + 1)]))


def spherical_shape(irreps: str | Irreps, name: str = "irreps") -> tuple[int, int]:
    r"""``(l_max, channels)`` of the spherical tensor that irreps describe.

    Its shape is ``[(l_max + 1)**2, channels]``. The terms may come in any order and one degree may
    be spread over several; together they must be the natural parities of degree 0 to ``l_max``,
    each with the same multiplicity.

    Raises:
        EquivError: they are not; names the irrep that does not fit.
    """
    irreps = parse_irreps(irreps, name)
    multiplicity: Counter[int] = Counter()
    for mul, ir in irreps:
        if mul and ir.p != (-1) ** ir.l:
            raise EquivError(
                f"{name}: {ir} in '{irreps}' has not the natural parity (-1)^l, so a spherical "
                "tensor cannot hold it; keep the flat layout for it"
            )
        multiplicity[ir.l] += mul
    if not sum(multiplicity.values()):
        raise EquivError(f"{name}: '{irreps}' is empty; a spherical tensor needs at least '1x0e'")
    l_max = max(l for l, mul in multiplicity.items() if mul)
    for l in range(l_max + 1):
        if multiplicity[l] != multiplicity[0]:
            raise EquivError(
                f"{name}: '{irreps}' has {multiplicity[l]} channels of degree {l} but "
                f"{multiplicity[0]} of degree 0; a spherical tensor has the same number for every "
                f"degree up to {l_max}"
            )
    return l_max, multiplicity[0]
