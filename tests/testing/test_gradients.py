import pytest
import torch

from equiv.testing import assert_gradient, directional_derivative

X = torch.linspace(0.3, 1.7, 6, dtype=torch.float64)


class WrongFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3.001 * x**2 * g


class WrongSecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * g


def test_the_stencil_is_exact_for_cubics_and_of_fourth_order():
    slope = directional_derivative(lambda x: x**3, X, torch.ones_like(X), step=0.1)
    torch.testing.assert_close(slope, 3 * X**2, rtol=0, atol=1e-13)
    errors = [
        (directional_derivative(torch.exp, X, torch.ones_like(X), step=h) - torch.exp(X))
        .abs()
        .max()
        for h in (0.1, 0.05)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.05)


def test_correct_derivatives_pass():
    assert assert_gradient(lambda x: torch.sin(x) * x.sum(), X) < 1e-7
    assert assert_gradient(lambda x: 2 * x, X) < 1e-10  # linear: the second derivative is zero


def test_a_wrong_first_derivative_is_found():
    with pytest.raises(AssertionError, match="the first derivative is wrong: autograd"):
        assert_gradient(WrongFirst.apply, X)


def test_a_second_derivative_that_is_cut_off_is_found():
    with pytest.raises(AssertionError, match="the second derivative is wrong"):
        assert_gradient(WrongSecond.apply, X)


def test_float32_is_refused():
    with pytest.raises(ValueError, match="need float64"):
        assert_gradient(torch.sin, X.float())
