r"""Tensor fields on the sphere of definite angular momentum, and the integral of three of them."""

import math

from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3.coupling import wigner_3j
from equiv.so3.harmonics import spherical_harmonics
from equiv.so3.recoupling import standard_3j, wigner_9j


def tensor_harmonics(
    l: int, s: int, j: int, vectors: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch a m"]:
    r"""Tensor spherical harmonics: fields of spin :math:`s` and total angular momentum :math:`j`.

    .. math::
        Y^{l s}_{j m}(\hat r)_a = \sqrt{2j+1} \sum_b w^{(l s j)}_{b a m}\, Y_{l b}(\hat r), \qquad
        \int \sum_a Y^{l s}_{j m}(\hat r)_a\, Y^{l' s}_{j' m'}(\hat r)_a\, d\Omega
        = \delta_{l l'}\, \delta_{j j'}\, \delta_{m m'}

    :math:`w` is :func:`equiv.so3.wigner_3j` and :math:`Y_l` the integral-normalised harmonics. With
    :math:`s = 0` these are the scalar harmonics (:math:`l = j`), with :math:`s = 1` the vector
    harmonics: for each :math:`j > 0` one that is everywhere tangent and divergence-free
    (:math:`l = j`) and two (:math:`l = j \pm 1`) that combine to the radial field
    :math:`\hat r\, Y_j` and the gradient of :math:`Y_j`. All of spin :math:`s` together are a basis
    of the fields with values in an irrep of degree :math:`s`. Under rotations
    :math:`Y(R \hat r)_{a m} = D^s_{aa'} D^j_{mm'} Y(\hat r)_{a'm'}`.

    Args:
        l: degree of the polynomial in :math:`\hat r`.
        s: spin.
        j: total angular momentum, ``abs(l - s) <= j <= l + s``.
        vectors: directions; their length does not matter.

    Returns:
        Component :math:`a` of the value and :math:`m` of the field, in the dtype of ``vectors``.

    Raises:
        EquivError: as :func:`equiv.so3.wigner_3j`.
    """
    w = math.sqrt(2 * j + 1) * wigner_3j(l, s, j).to(vectors)
    y = spherical_harmonics(l, vectors, normalization="integral")[..., l * l :]
    return (y @ w.flatten(1)).unflatten(-1, (2 * s + 1, 2 * j + 1))


def generalized_gaunt(
    l: tuple[int, int, int], s: tuple[int, int, int], j: tuple[int, int, int]
) -> float:
    r"""Integral over three tensor harmonics, coupled point by point.

    .. math::
        \int \sum_{abc} w^{(s_1 s_2 s_3)}_{abc}\,
        Y^{l_1 s_1}_{j_1 m_1}(\hat r)_a\, Y^{l_2 s_2}_{j_2 m_2}(\hat r)_b\,
        Y^{l_3 s_3}_{j_3 m_3}(\hat r)_c\, d\Omega = \rho\; w^{(j_1 j_2 j_3)}_{m_1 m_2 m_3},

        \rho = \prod_i \sqrt{2 j_i + 1}\;
        \sqrt{\frac{\prod_i (2 l_i + 1)}{4\pi}}
        \left| \begin{pmatrix} l_1 & l_2 & l_3 \\ 0 & 0 & 0 \end{pmatrix} \right|
        \begin{Bmatrix} l_1 & l_2 & l_3 \\ s_1 & s_2 & s_3 \\ j_1 & j_2 & j_3 \end{Bmatrix}

    The sign is exact in e3nn's phases. Only :math:`l_1 + l_2 + l_3` has to be even:
    :math:`j_1 + j_2 + j_3` may be odd if one of the :math:`l_i \neq j_i`, and that is how signals
    with tensor values reach the couplings that scalar signals (:math:`s_i = 0`: the Gaunt
    coefficient) miss. With :math:`(s_1, s_2, s_3)` = (1, 1, 0), (0, 1, 1) or (1, 1, 1) every odd
    coupling is reached. (Xie et al. 2026, "Asymptotically fast Clebsch-Gordan tensor products with
    vector spherical harmonics".)

    Args:
        l: :math:`l_1, l_2, l_3`.
        s: :math:`s_1, s_2, s_3`.
        j: :math:`j_1, j_2, j_3`.

    Returns:
        :math:`\rho`; 0 where a selection rule is broken.

    Raises:
        EquivError: a degree is negative or no integer.
    """
    if any(not isinstance(a, int) or isinstance(a, bool) or a < 0 for a in (*l, *s, *j)):
        raise EquivError(
            f"generalized_gaunt: degrees must be non-negative integers, got l={l}, s={s}, j={j}"
        )
    dims = math.prod(2 * a + 1 for a in (*l, *j))
    return math.sqrt(dims / (4 * math.pi)) * abs(standard_3j(*l, 0, 0)) * wigner_9j(*l, *s, *j)
