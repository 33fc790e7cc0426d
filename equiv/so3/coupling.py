r"""Coupling coefficients of real spherical tensors, in e3nn's phases and normalisation."""

import functools
import math
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError


def wigner_3j(l1: int, l2: int, l3: int) -> Float[Tensor, "m1 m2 m3"]:
    r"""Invariant tensor of three real spherical tensors, with unit Frobenius norm.

    .. math::
        w_{abc} = \sum_{a'b'c'} D^{l_1}_{aa'} D^{l_2}_{bb'} D^{l_3}_{cc'} w_{a'b'c'}
        \quad\text{for every rotation}, \qquad \sum_{abc} w_{abc}^2 = 1

    It is unique up to a sign, which is that of ``e3nn.o3.wigner_3j``. The rows satisfy
    :math:`\sum_{ab} w_{abc} w_{abc'} = \delta_{cc'} / (2 l_3 + 1)`, so :math:`\sqrt{2 l_3 + 1}\, w`
    couples two tensors isometrically. The Clebsch-Gordan coefficients behind it are summed in exact
    rational arithmetic (Racah 1942), hence accurate to the last digits at any degree; computed once
    per triple and cached.

    Args:
        l1: first degree.
        l2: second degree.
        l3: third degree, with ``abs(l1 - l2) <= l3 <= l1 + l2``.

    Returns:
        A new float64 tensor on the CPU of shape ``[2 l1 + 1, 2 l2 + 1, 2 l3 + 1]``, yours to
        change.

    Raises:
        EquivError: the degrees are not non-negative integers or break the triangle rule.
    """
    for name, l in (("l1", l1), ("l2", l2), ("l3", l3)):
        if not isinstance(l, int) or isinstance(l, bool) or l < 0:
            raise EquivError(f"wigner_3j: {name} must be a non-negative integer, got {l!r}")
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise EquivError(
            f"wigner_3j: degrees ({l1}, {l2}, {l3}) break the triangle rule; "
            f"with l1={l1} and l2={l2}, l3 runs from {abs(l1 - l2)} to {l1 + l2}"
        )
    return torch.from_numpy(_wigner_3j(l1, l2, l3).copy())


@functools.cache
def _wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    q1, q2, q3 = (_complex_from_real(l) for l in (l1, l2, l3))
    complex_basis = _clebsch_gordan(l1, l2, l3)
    w = np.einsum("ia,jb,kc,ijk->abc", q1, q2, q3.conj(), complex_basis, optimize=True).real
    return w / np.linalg.norm(w)


def _complex_from_real(l: int) -> np.ndarray:
    r"""Unitary :math:`q` with (complex component m) = :math:`\sum_a q_{ma}` (real component a).

    The factor :math:`(-i)^l` makes the couplings of real tensors real for even and odd degree sums
    alike.
    """
    q = np.zeros((2 * l + 1, 2 * l + 1), dtype=np.complex128)
    q[l, l] = 1
    for m in range(1, l + 1):
        q[l - m, l + m], q[l - m, l - m] = math.sqrt(0.5), -1j * math.sqrt(0.5)
        sign = (-1) ** m
        q[l + m, l + m], q[l + m, l - m] = sign * math.sqrt(0.5), sign * 1j * math.sqrt(0.5)
    return (-1j) ** l * q


def _clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    r"""Condon-Shortley :math:`\langle l_1 m_1\, l_2 m_2 | l_3 m_3 \rangle` over (m1, m2, m3)."""
    out = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            out[l1 + m1, l2 + m2, l3 + m1 + m2] = clebsch_gordan_coefficient(
                l1, m1, l2, m2, l3, m1 + m2
            )
    return out


def clebsch_gordan_coefficient(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    """One Clebsch-Gordan coefficient by Racah's sum; the only rounding is the final square root."""
    f = math.factorial
    first = max(0, l2 - l3 - m1, l1 - l3 + m2)
    last = min(l1 + l2 - l3, l1 - m1, l2 + m2)
    total = sum(
        Fraction(
            (-1) ** k,
            f(k)
            * f(l1 + l2 - l3 - k)
            * f(l1 - m1 - k)
            * f(l2 + m2 - k)
            * f(l3 - l2 + m1 + k)
            * f(l3 - l1 - m2 + k),
        )
        for k in range(first, last + 1)
    )
    triangle = Fraction(
        (2 * l3 + 1) * f(l1 + l2 - l3) * f(l1 - l2 + l3) * f(-l1 + l2 + l3),
        f(l1 + l2 + l3 + 1),
    )
    magnetic = f(l1 + m1) * f(l1 - m1) * f(l2 + m2) * f(l2 - m2) * f(l3 + m3) * f(l3 - m3)
    square = triangle * magnetic * total * total
    return math.copysign(math.sqrt(square), total) if total else 0.0
