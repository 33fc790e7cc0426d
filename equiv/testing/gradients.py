"""Derivatives checked against finite differences."""

from collections.abc import Callable

import torch
from torch import Tensor

# Central differences of fourth order: f'(x) = sum_k c_k f(x + k h) / h + O(h^4).
STENCIL = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}


def directional_derivative(
    function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, *, step: float = 1e-3
) -> Tensor:
    r"""Numerical derivative along a direction, with an error of order ``step**4``.

    .. math::
        \frac{d}{dt} f(x + t v) \approx \frac{f(x - 2hv) - 8 f(x - hv) + 8 f(x + hv) - f(x +
        2hv)}{12 h}

    Args:
        function: of one tensor; any shape of result.
        x: where, :math:`x`.
        direction: :math:`v`, shaped like ``x``.
        step: :math:`h`.
    """
    with torch.no_grad():
        terms = [c * function(x + k * step * direction) for k, c in STENCIL.items()]
    return torch.stack(terms).sum(0) / step


def assert_gradient(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    tolerance: float = 1e-7,
    step: float = 1e-3,
    directions: int = 3,
    seed: int = 0,
) -> float:
    r"""Assert that first and second derivatives by autograd are those of finite differences.

    With :math:`g(x) = \nabla_x \langle a, f(x) \rangle` for a random :math:`a`, compares
    :math:`\langle g, v \rangle` with the numerical derivative of :math:`\langle a, f \rangle` along
    random :math:`v`, then :math:`\nabla_x \langle g, b \rangle` for random :math:`b` with the
    numerical derivative of :math:`\langle g, b \rangle`: the second derivative is what training on
    forces needs.

    Args:
        function: of one tensor, any shape of result; smooth around ``x``.
        x: float64, where.
        tolerance: largest error allowed, relative to the largest derivative met.
        step: of the finite differences.
        directions: how many are tried.
        seed: of the generator that draws them.

    Returns:
        The largest relative error found.

    Raises:
        AssertionError: a derivative is wrong; names its order and the values.
        ValueError: ``x`` is not float64.
    """
    if x.dtype != torch.float64:
        raise ValueError(f"finite differences need float64, got {x.dtype}")
    generator = torch.Generator().manual_seed(seed)

    def random_like(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, dtype=torch.float64, generator=generator)

    with torch.no_grad():
        a = random_like(function(x))
    b = random_like(x)

    def gradient(at: Tensor, *, differentiable: bool = False) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = at.detach().requires_grad_(True)
            (g,) = torch.autograd.grad((a * function(at)).sum(), at, create_graph=differentiable)
        return at, g

    at, first = gradient(x, differentiable=True)
    second = torch.zeros_like(x)
    if first.requires_grad:  # else the function is linear and its second derivative is zero
        (second,) = torch.autograd.grad(
            (first * b).sum(), at, allow_unused=True, materialize_grads=True
        )
    worst = 0.0
    for _ in range(directions):
        v = random_like(x)
        checks = {
            "first": (first, lambda y: (a * function(y)).sum()),
            "second": (second, lambda y: (gradient(y)[1] * b).sum()),
        }
        for order, (derivative, scalar) in checks.items():
            numerical = directional_derivative(scalar, x, v, step=step).item()
            analytic = (derivative.detach() * v).sum().item()
            scale = max(
                (first.detach() * v).abs().sum().item(),
                (derivative.detach() * v).abs().sum().item(),
                1e-300,
            )
            error = abs(numerical - analytic) / scale
            if not error <= tolerance:
                raise AssertionError(
                    f"the {order} derivative is wrong: autograd {analytic:.10g}, "
                    f"finite differences {numerical:.10g} (relative error {error:.1e}, "
                    f"allowed {tolerance:.1e})"
                )
            worst = max(worst, error)
    return worst
