"""Numbers of Benner, Khoromskij, Khoromskaia, Sun, arXiv:2503.01696, for the Newton kernel."""

import math

import numpy as np
import pytest

from equiv.long_range.canonical import canonical_potential
from equiv.long_range.gaussian_sums import inverse_power
from equiv.long_range.hybrid import ChebyshevTuckerFunction

CELLS = 256
KERNEL = inverse_power(1, 3e-5, 0.5 / CELLS, math.sqrt(3))


def relative_error(part, length):
    """On the middle slice of the grid, and the Tucker rank."""
    x = (2 * np.arange(CELLS) + 1) / CELLS - 1
    tensor = canonical_potential(part, [x] * 3, [[0.0, 0.0, 0.0]], [1.0])
    hybrid = ChebyshevTuckerFunction.from_canonical_grid(tensor, [length] * 3, 1e-7)
    middle = x[CELLS // 2 - 1 : CELLS // 2]
    exact = part(np.sqrt(x[:, None] ** 2 + x**2 + middle**2))
    slab = hybrid.on_grid(x, x, middle).full()[:, :, 0]
    return np.abs(slab - exact).max() / exact.max(), max(hybrid.ranks)


def test_the_kernel_on_256_cells_is_a_sum_of_26_gaussians():
    assert KERNEL.rank == 26


@pytest.mark.parametrize(("length", "published"), [(129, 4.1e-1), (257, 7.3e-2), (513, 7.7e-3)])
def test_the_whole_kernel_converges_as_slowly_as_published(length, published):
    assert relative_error(KERNEL, length)[0] == pytest.approx(published, rel=0.15)


def test_the_long_range_part_is_resolved_by_129_coefficients_with_rank_9():
    # Published: 8.4e-8 with rank 9, for the ten widest Gaussians.
    error, rank = relative_error(KERNEL.split(10)[0], 129)
    assert error < 2e-7
    assert rank <= 10
