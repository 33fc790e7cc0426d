r"""Radial kernels as sums of Gaussians, with stated error.

.. math::
    f(r) \approx \sum_{k=1}^{R} w_k\, e^{-t_k^2 r^2}, \qquad
    e^{-t^2 r^2} = e^{-t^2 x^2}\, e^{-t^2 y^2}\, e^{-t^2 z^2}

so every term is a product of three functions of one variable: a Gaussian sum *is* a canonical
(rank :math:`R`) tensor decomposition of the kernel, with rank independent of any grid. The kernels
here are Laplace-type integrals over the width,

.. math::
    \frac{1}{r^p} &= \frac{2}{\Gamma(p/2)} \int_0^\infty t^{p-1} e^{-t^2 r^2}\, dt \\
    \frac{e^{-\kappa r}}{r}
        &= \frac{2}{\sqrt\pi} \int_0^\infty e^{-\kappa^2 / 4 t^2} e^{-t^2 r^2}\, dt \\
    \frac{\operatorname{erf}(\alpha r)}{r} &= \frac{2}{\sqrt\pi} \int_0^\alpha e^{-t^2 r^2}\, dt

discretised by the trapezoidal rule in :math:`u = \log t` (sinc quadrature; exponentially accurate
because the integrand is entire and decays at both ends) or, on the bounded interval of erf, by
Gauss-Legendre in :math:`\log t` panels.
"""

import math

import numpy as np
import scipy.optimize
from scipy.special import gammaln, loggamma


def trapezoidal_error(power: float, step: float) -> float:
    r"""Relative error of the infinite trapezoidal rule for :math:`r^{-p}`, for every ``r``.

    .. math::
        r^p\, h \frac{2}{\Gamma(p/2)} \sum_{k \in \mathbb Z} t_k^p\, e^{-t_k^2 r^2} - 1
        = \sum_{j \ne 0} \frac{\Gamma(p/2 + i \pi j / h)}{\Gamma(p/2)}\, e^{-2\pi i j \log(r) / h},
        \qquad t_k = e^{kh}

    (Poisson's summation). The terms :math:`j = \pm 1` dominate: the error is
    :math:`2 |\Gamma(p/2 + i\pi/h)| / \Gamma(p/2)`, for the Coulomb kernel
    :math:`2\sqrt2\, e^{-\pi^2/2h}`.
    """
    return 2 * math.exp(
        float(np.real(loggamma(power / 2 + 1j * math.pi / step))) - gammaln(power / 2)
    )


def trapezoidal_step(power: float, error: float) -> float:
    """The step ``h`` in log t whose :func:`trapezoidal_error` is ``error``."""
    return scipy.optimize.brentq(
        lambda h: math.log(trapezoidal_error(power, h) / error), 0.02, 12.0
    )
