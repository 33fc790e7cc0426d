"""Sets of directions, as regular as they come."""

import math
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

GOLDEN = (1 + math.sqrt(5)) / 2


def icosahedron() -> Float[Tensor, "12 3"]:
    r"""Vertices: cyclic permutations of :math:`(0, \pm 1, \pm \varphi)`, normalised."""
    return _cyclic([(0.0, a, b * GOLDEN) for a, b in product((1, -1), repeat=2)])


def dodecahedron() -> Float[Tensor, "20 3"]:
    r"""Vertices: the centers of the faces of :func:`icosahedron`.

    :math:`(\pm 1, \pm 1, \pm 1)` and cyclic permutations of :math:`(0, \pm\varphi, \pm
    1/\varphi)`, normalised.
    """
    cube = torch.tensor(list(product((1.0, -1.0), repeat=3)), dtype=torch.float64)
    rest = _cyclic([(0.0, a * GOLDEN, b / GOLDEN) for a, b in product((1, -1), repeat=2)])
    return torch.cat([cube / math.sqrt(3), rest])


def octahedron() -> Float[Tensor, "6 3"]:
    """Vertices: the six directions of the axes."""
    return torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])


def fibonacci(num: int) -> Float[Tensor, "num 3"]:
    r"""A spiral of equal steps in height and golden steps around the polar axis y.

    .. math::
        y_k = 1 - \frac{2k + 1}{n}, \qquad \phi_k = 2 \pi k / \varphi
    """
    k = torch.arange(num, dtype=torch.float64)
    y = 1 - (2 * k + 1) / num
    ring, angle = (1 - y**2).sqrt(), 2 * math.pi * k / GOLDEN
    return torch.stack([ring * angle.sin(), y, ring * angle.cos()], -1)


def repelled(num: int, seed: int, *, steps: int = 400) -> Float[Tensor, "num 3"]:
    r"""Directions that keep apart: a minimum of :math:`\sum_{a < b} |o_a - o_b|^{-2}`.

    Found by descent from random directions. An even number comes in antipodal pairs
    (:math:`o_{k + n/2} = -o_k`), which integrates all odd functions exactly and lets a convolution
    share kernels between the two directions of an edge.
    """
    generator = torch.Generator().manual_seed(seed)
    half = num // 2 if num % 2 == 0 else num
    free = torch.randn(half, 3, dtype=torch.float64, generator=generator)

    def spread(x: Tensor) -> Tensor:
        x = torch.nn.functional.normalize(x, dim=-1)
        return torch.cat([x, -x]) if half < num else x

    if num > 2:
        above = torch.triu_indices(num, num, 1)
        free.requires_grad_()
        descent = torch.optim.LBFGS(
            [free], max_iter=steps, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
        )

        def energy() -> Tensor:
            descent.zero_grad()
            points = spread(free)
            apart = (points[above[0]] - points[above[1]]).square().sum(-1)
            total = apart.reciprocal().sum() / num**2
            total.backward()
            return total

        with torch.enable_grad():
            descent.step(energy)
    return spread(free.detach())


def circle(num: int) -> Float[Tensor, "num 2"]:
    r"""Directions of the plane in equal steps: :math:`(\cos, \sin)(2 \pi k / n)`."""
    angle = torch.arange(num, dtype=torch.float64) * (2 * math.pi / num)
    return torch.stack([angle.cos(), angle.sin()], -1)


def _cyclic(rows: list[tuple[float, float, float]]) -> Tensor:
    points = torch.tensor(rows, dtype=torch.float64)
    turned = torch.cat([points.roll(shift, 1) for shift in range(3)])
    return torch.nn.functional.normalize(turned, dim=-1)
