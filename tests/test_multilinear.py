"""A form with kernels of its own beside the same sum, which torch differentiates."""

import pytest
import torch

from equiv.multilinear import MultilinearForm

LABELS = ("ia", "ib", "ic", "abc")


class Sum(MultilinearForm):
    """The sum over i, a, b and c of x_ia y_ib z_ic w_abc."""

    def __init__(self):
        self.calls = []

    def compute(self, wanted, *given):
        assert not torch.is_grad_enabled()
        self.calls.append(tuple(wanted))
        found = []
        for k in wanted:
            labels = [label for m, label in enumerate(LABELS) if m != k]
            others = [t for m, t in enumerate(given) if m != k]
            found.append(torch.einsum(",".join(labels) + "->" + LABELS[k], *others))
        return found


def plain(x, y, w):
    return torch.einsum("ia,ib,abc->ic", x, y, w)


@pytest.fixture
def tensors():
    g = torch.Generator().manual_seed(0)
    shapes = (4, 2), (4, 3), (2, 3, 5)
    return [torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]


def product(form):
    return lambda x, y, w: form.derivative(2, x, y, None, w)


def test_gradients_are_those_of_finite_differences(tensors):
    assert torch.autograd.gradcheck(product(Sum()), tensors)
    assert torch.autograd.gradgradcheck(product(Sum()), tensors)


def derivatives(function, tensors):
    """The value and derivatives to the third order, of squares, so that all are mixed."""
    levels = [[function(*tensors)]]
    for order in range(3):
        total = sum(t.square().sum() for t in levels[-1])
        levels.append(torch.autograd.grad(total, tensors, create_graph=order < 2))
    return [t for level in levels for t in level]


def test_derivatives_of_every_order_are_those_of_the_sum(tensors):
    for ours, its in zip(
        derivatives(product(Sum()), tensors), derivatives(plain, tensors), strict=True
    ):
        torch.testing.assert_close(ours, its, rtol=1e-12, atol=1e-12)


def test_an_argument_may_depend_on_another(tensors):
    x, _, w = tensors

    def of_two(function):
        return lambda x, w: function(x, torch.cat([x.sin(), x[:, :1]], 1), w * x.sum())

    for ours, its in zip(
        derivatives(of_two(product(Sum())), [x, w]), derivatives(of_two(plain), [x, w]), strict=True
    ):
        torch.testing.assert_close(ours, its, rtol=1e-12, atol=1e-12 * its.abs().max().item())


def test_only_what_somebody_waits_for_is_computed(tensors):
    x, y, w = (t * 1.0 for t in tensors)
    form = Sum()
    z = product(form)(x, y, w)
    torch.autograd.grad(z.sum(), tensors[0], retain_graph=True)
    assert form.calls == [(2,), (0,)]
    (g,) = torch.autograd.grad(z.sum(), tensors[0], create_graph=True)
    form.calls.clear()
    torch.autograd.grad(g.sum(), tensors[2])
    assert form.calls == [(3,)]


def test_a_derivative_by_one_argument_does_not_depend_on_it(tensors):
    x, y, w = tensors
    z = torch.ones(4, 5, dtype=torch.float64)
    by_x = Sum().derivative(0, x, y.detach(), z, w.detach())
    assert not by_x.requires_grad
    with torch.no_grad():
        assert not Sum().derivative(0, x, y, z, w).requires_grad
