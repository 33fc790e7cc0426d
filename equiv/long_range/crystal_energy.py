"""The long-range energy of a crystal from the coefficients of its waves."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.long_range.splitting import Splitting
from equiv.long_range.waves import combine, is_orthogonal


def crystal_energy(
    coefficients: Float[Tensor, "graphs nx ny nz"],
    cell: Float[Tensor, "graphs 3 3"],
    split: Splitting,
) -> Float[Tensor, " graphs"]:
    r"""Half of :math:`\sum_{ij} q_i q_j \sum_R K_L(r_i - r_j + R)`, itself pairs included.

    .. math:: \frac{1}{2V} \sum_{k \neq 0,\, |k| \le K} \hat K_L(k)\,
              \Big|\sum_i q_i e^{i k r_i}\Big|^2

    ``coefficients`` are the sums of the charges times products of the functions in
    :func:`equiv.long_range.waves.wave_table` of the three fractional coordinates. Differentiable in
    the cell as well. In a rectangular cell the products themselves diagonalise the kernel, which is
    cheaper, but their squares do not know the shear stress: that is for a fixed cell.
    """
    if not cell.requires_grad and all(is_orthogonal(c) for c in cell):
        return _rectangular(coefficients, cell, split)
    return _oblique(coefficients, cell, split)


@torch.no_grad()
def crystal_product(
    coefficients: Float[Tensor, "nx ny nz"], cell: Float[Tensor, "3 3"], split: Splitting
) -> Float[Tensor, "nx ny nz"]:
    """The derivative of :func:`crystal_energy` with respect to the coefficients; linear in them.

    In a rectangular cell it is a product with one number for each coefficient.
    """
    if is_orthogonal(cell):
        lengths = tuple(math.hypot(*row) for row in cell.tolist())
        c = coefficients
        return c * _factors(lengths, tuple(c.shape), split, c.dtype, c.device)
    with torch.enable_grad():
        c = coefficients.detach().requires_grad_()
        energy = _oblique(c[None], cell.detach()[None].to(c.dtype), split)
        return torch.autograd.grad(energy.sum(), c)[0]


@lru_cache(maxsize=8)
def _factors(
    lengths: tuple[float, ...],
    shape: tuple[int, ...],
    split: Splitting,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The numbers of :func:`crystal_product`, kept as long as the cell stays what it is."""
    c = torch.ones(1, *shape, dtype=torch.float64, device=device, requires_grad=True)
    cell = torch.diag(torch.tensor(lengths, dtype=torch.float64, device=device))
    with torch.enable_grad():
        (factors,) = torch.autograd.grad(_rectangular(c, cell[None], split).sum(), c)
    return factors[0].to(dtype)


def _numbers(n: int, like: Tensor, *, signed: bool) -> Tensor:
    return torch.arange(-n if signed else 0, n + 1, dtype=like.dtype, device=like.device)


def _weights(squared: Tensor, cell: Tensor, split: Splitting) -> Tensor:
    """K_L-hat(k) / V where the wave counts, zero where it does not."""
    volume = torch.linalg.det(cell).abs()[:, None, None, None]
    square = squared.detach()
    counts = (square > 1e-12) & (square <= split.bandwidth**2)
    safe = torch.where(counts, squared, torch.full_like(squared, 1.0))
    weights = torch.where(counts, split.long_transform(safe), torch.zeros_like(squared))
    if split.exponent > 3:  # absolutely convergent: the mean of the kernel counts
        mean = split.long_transform(torch.zeros_like(squared[:, :1, :1, :1]))
        weights = weights + torch.where(square == 0, mean, torch.zeros_like(squared))
    return weights / volume


def _rectangular(c: Tensor, cell: Tensor, split: Splitting) -> Tensor:
    most = [(n - 1) // 2 for n in c.shape[1:]]
    lengths = cell.norm(dim=-1)
    squared = torch.zeros((), dtype=cell.dtype, device=cell.device)
    for axis, n in enumerate(most):
        k = 2 * math.pi * _numbers(n, cell, signed=False) / lengths[:, axis, None]
        shape = [len(cell), 1, 1, 1]
        shape[axis + 1] = n + 1
        squared = squared + k.square().view(shape)
    weights = _weights(squared, cell, split)
    powers = c.square()
    for axis, n in enumerate(most):
        # cosine and sine of each wave together; every wave but 0 stands for itself and its negative
        cosines = powers.narrow(axis + 1, 0, n + 1)
        zero = torch.zeros_like(cosines.narrow(axis + 1, 0, 1))
        sines = torch.cat([zero, powers.narrow(axis + 1, n + 1, n)], axis + 1)
        twice = torch.ones(n + 1, dtype=c.dtype, device=c.device)
        twice[1:] = 2
        shape = [1, 1, 1, 1]
        shape[axis + 1] = n + 1
        powers = (cosines + sines) * twice.view(shape)
    return (weights * powers).double().sum((1, 2, 3)) / 2


def _oblique(c: Tensor, cell: Tensor, split: Splitting) -> Tensor:
    most = [(n - 1) // 2 for n in c.shape[1:]]
    sums = combine(combine(combine(c, 1, half=True), 2, half=False), 3, half=False)
    reciprocal = 2 * math.pi * torch.linalg.inv(cell).mT
    x, y, z = (_numbers(n, cell, signed=axis > 0) for axis, n in enumerate(most))
    waves = (
        x[:, None, None, None] * reciprocal[:, None, None, None, 0]
        + y[:, None, None] * reciprocal[:, None, None, None, 1]
        + z[:, None] * reciprocal[:, None, None, None, 2]
    )
    weights = _weights(waves.square().sum(-1), cell, split)
    twice = torch.where(x == 0, 1.0, 2.0).view(-1, 1, 1)
    powers = sums.real.square() + sums.imag.square()
    return (weights * twice * powers).double().sum((1, 2, 3)) / 2
