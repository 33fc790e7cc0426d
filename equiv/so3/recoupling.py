r"""Numbers that say how couplings of three and more angular momenta relate to each other."""

import functools
import math
from fractions import Fraction

from equiv.errors import EquivError
from equiv.so3.coupling import clebsch_gordan_coefficient


def standard_3j(l1: int, l2: int, l3: int, m1: int, m2: int) -> float:
    r"""Wigner's 3j symbol, in the standard (complex, Condon-Shortley) convention.

    .. math::
        \begin{pmatrix} l_1 & l_2 & l_3 \\ m_1 & m_2 & -m_1-m_2 \end{pmatrix} =
        \frac{(-1)^{l_1 - l_2 + m_1 + m_2}}{\sqrt{2 l_3 + 1}}
        \langle l_1 m_1\, l_2 m_2 | l_3\, m_1 + m_2 \rangle

    0 where a selection rule is broken. The one of real spherical tensors, an array, is
    :func:`equiv.so3.wigner_3j`.
    """
    m3 = m1 + m2
    if not _triangle(l1, l2, l3) or abs(m1) > l1 or abs(m2) > l2 or abs(m3) > l3:
        return 0.0
    sign = (-1) ** (l1 - l2 + m3)
    return sign * clebsch_gordan_coefficient(l1, m1, l2, m2, l3, m3) / math.sqrt(2 * l3 + 1)


@functools.cache
def wigner_6j(j1: int, j2: int, j3: int, j4: int, j5: int, j6: int) -> float:
    r"""Wigner's 6j symbol by Racah's sum.

    .. math::
        \begin{Bmatrix} j_1 & j_2 & j_3 \\ j_4 & j_5 & j_6 \end{Bmatrix}

    The sum runs over exact integers and the only rounding is in the final square root, so that an
    accidental zero is exactly 0. It is 0 also where one of the triads (123), (156), (426), (453)
    breaks the triangle rule.

    Raises:
        EquivError: an argument is not a non-negative integer (half-integers are not needed here).
    """
    j = (j1, j2, j3, j4, j5, j6)
    if any(not isinstance(a, int) or isinstance(a, bool) or a < 0 for a in j):
        raise EquivError(f"wigner_6j: the six arguments must be non-negative integers, got {j}")
    triads = [(j1, j2, j3), (j1, j5, j6), (j4, j2, j6), (j4, j5, j3)]
    if not all(_triangle(*triad) for triad in triads):
        return 0.0
    f = math.factorial
    pairs = [j1 + j2 + j4 + j5, j2 + j3 + j5 + j6, j3 + j1 + j6 + j4]
    total = sum(
        Fraction(
            (-1) ** k * f(k + 1),
            math.prod(f(k - sum(triad)) for triad in triads)
            * math.prod(f(pair - k) for pair in pairs),
        )
        for k in range(max(map(sum, triads)), min(pairs) + 1)
    )
    square = math.prod((_delta(*triad) for triad in triads), start=total * total)
    return math.copysign(math.sqrt(square), total) if total else 0.0


@functools.cache
def wigner_9j(
    j1: int, j2: int, j3: int, j4: int, j5: int, j6: int, j7: int, j8: int, j9: int
) -> float:
    r"""Wigner's 9j symbol as a sum of products of three 6j symbols.

    .. math::
        \begin{Bmatrix} j_1 & j_2 & j_3 \\ j_4 & j_5 & j_6 \\ j_7 & j_8 & j_9 \end{Bmatrix} =
        \sum_k (2k+1)
        \begin{Bmatrix} j_1 & j_4 & j_7 \\ j_8 & j_9 & k \end{Bmatrix}
        \begin{Bmatrix} j_2 & j_5 & j_8 \\ j_4 & k & j_6 \end{Bmatrix}
        \begin{Bmatrix} j_3 & j_6 & j_9 \\ k & j_1 & j_2 \end{Bmatrix}

    Raises:
        EquivError: an argument is not a non-negative integer.
    """
    first = max(abs(j1 - j9), abs(j4 - j8), abs(j2 - j6))
    last = min(j1 + j9, j4 + j8, j2 + j6)
    return math.fsum(
        (2 * k + 1)
        * wigner_6j(j1, j4, j7, j8, j9, k)
        * wigner_6j(j2, j5, j8, j4, k, j6)
        * wigner_6j(j3, j6, j9, k, j1, j2)
        for k in range(first, last + 1)
    )


def _triangle(l1: int, l2: int, l3: int) -> bool:
    return abs(l1 - l2) <= l3 <= l1 + l2


def _delta(a: int, b: int, c: int) -> Fraction:
    f = math.factorial
    return Fraction(f(a + b - c) * f(a - b + c) * f(-a + b + c), f(a + b + c + 1))
