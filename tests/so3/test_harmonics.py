import math

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.special import sph_harm_y

from equiv.errors import EquivError
from equiv.so3 import random_rotations, rotate_spherical, spherical_harmonics

NORMALIZATIONS = ("component", "norm", "integral")


def vectors(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 3, dtype=dtype, generator=g)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("normalize", [True, False])
def test_equal_to_e3nn_as_far_as_it_reaches(normalization, normalize):
    v = vectors(50) * 0.7
    ours = spherical_harmonics(11, v, normalization=normalization, normalize=normalize)
    theirs = o3.spherical_harmonics(list(range(12)), v, normalize, normalization)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_equal_to_scipy_at_high_degree():
    l_max, v = 40, vectors(20)
    x, y, z = (v / v.norm(dim=-1, keepdim=True)).numpy().T
    theta, phi = np.arccos(y), np.arctan2(x, z)
    expected = np.empty((20, (l_max + 1) ** 2))
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            value = (-1) ** m * sph_harm_y(l, abs(m), theta, phi)
            part = value.imag if m < 0 else value.real
            expected[:, l * l + l + m] = part * (math.sqrt(2) if m else 1)
    ours = spherical_harmonics(l_max, v, normalization="integral")
    torch.testing.assert_close(ours, torch.from_numpy(expected), atol=1e-12, rtol=0)


def test_degree_one_is_the_direction_in_the_order_x_y_z():
    y = spherical_harmonics(1, torch.tensor([0.0, 3.0, 4.0]), normalization="norm")
    torch.testing.assert_close(y, torch.tensor([1.0, 0.0, 0.6, 0.8]))


def test_rounding_errors_do_not_grow_with_the_degree():
    y = spherical_harmonics(60, vectors(30), normalization="norm")
    norms = torch.stack([d.square().sum(-1) for d in y.split([2 * l + 1 for l in range(61)], -1)])
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-13, rtol=0)


def test_float32_agrees_with_float64():
    v = vectors(200)
    error = spherical_harmonics(10, v.float()).double() - spherical_harmonics(10, v)
    assert error.abs().max() < 2e-5  # components reach sqrt(21)


@pytest.mark.parametrize("improper", [False, True])
def test_rotations_and_reflections_act_as_on_irreps_of_natural_parity(improper):
    v = vectors(6)
    rotation = random_rotations(generator=torch.Generator().manual_seed(2), improper=improper)
    turned = spherical_harmonics(8, v @ rotation.T)
    expected = rotate_spherical(spherical_harmonics(8, v).unsqueeze(-1), rotation).squeeze(-1)
    torch.testing.assert_close(turned, expected, atol=1e-12, rtol=0)


AWKWARD = torch.tensor(
    [[0, 1, 0], [0, -2, 0], [1, 0, 0], [0, 0, -3], [1e-9, 1, 0], [0.3, -0.2, 0.5]],
    dtype=torch.float64,
)


@pytest.mark.parametrize("normalize", [True, False])
def test_derivatives_equal_finite_differences_also_at_the_poles(normalize):
    v = AWKWARD.clone().requires_grad_()

    def y(v):
        return spherical_harmonics(4, v, normalize=normalize)

    assert torch.autograd.gradcheck(y, v)
    assert torch.autograd.gradgradcheck(y, v)


def test_second_derivatives_equal_e3nn():
    v = vectors(40).requires_grad_()
    weights = torch.randn(25, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def second(y):
        (first,) = torch.autograd.grad(((y @ weights) ** 3).sum(), v, create_graph=True)
        return torch.autograd.grad(first.square().sum(), v)[0]

    ours = second(spherical_harmonics(4, v))
    theirs = second(o3.spherical_harmonics(list(range(5)), v, True, "component"))
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_vector_has_neither_direction_nor_gradients(dtype):
    v = torch.tensor([[0, 0, 0], [0, 1, 0]], dtype=dtype, requires_grad=True)
    y = spherical_harmonics(4, v)
    assert y[0, 0] == 1
    assert torch.equal(y[0, 1:], torch.zeros(24, dtype=dtype))
    weights = torch.arange(1, 26, dtype=dtype)
    (first,) = torch.autograd.grad((y @ weights).square().sum(), v, create_graph=True)
    (second,) = torch.autograd.grad(first.sum() + first.square().sum(), v)
    for gradient in (first, second):
        assert torch.equal(gradient[0], torch.zeros(3, dtype=dtype))
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() > 0


def test_solid_harmonics_keep_the_gradient_of_a_zero_vector():
    v = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    y = spherical_harmonics(3, v, normalization="norm", normalize=False)
    (gradient,) = torch.autograd.grad(y.sum(), v)
    assert gradient.tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(), (0,), (2, 5), (3, 0, 2)])
def test_any_leading_shape(shape):
    v = vectors(*shape)
    y = spherical_harmonics(3, v)
    assert y.shape == (*shape, 16)
    flat = spherical_harmonics(3, v.reshape(-1, 3))
    torch.testing.assert_close(y.reshape(-1, 16), flat, atol=0, rtol=0)


def test_strided_input_and_degree_zero():
    v = vectors(6)
    torch.testing.assert_close(
        spherical_harmonics(2, v.T.contiguous().T), spherical_harmonics(2, v), atol=0, rtol=0
    )
    assert spherical_harmonics(0, v).tolist() == [[1.0]] * 6


def test_use_in_inference_mode_leaves_training_possible():
    v = vectors(3, dtype=torch.float32).double()
    with torch.inference_mode():
        spherical_harmonics(17, v)
    v = v.clone().requires_grad_()
    spherical_harmonics(17, v).square().sum().backward()
    assert v.grad is not None


def test_compiles_in_one_graph_with_the_same_values_and_gradients():
    torch.compiler.reset()

    def two(v):  # twice in one graph, with different settings
        low = spherical_harmonics(2, v, normalization="norm", normalize=False)
        return torch.cat([spherical_harmonics(4, v), low], dim=-1)

    compiled = torch.compile(two, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (7, 4):
        v = vectors(n, seed=n).requires_grad_()
        expected, came = two(v), compiled(v)
        torch.testing.assert_close(came, expected, atol=1e-13, rtol=0)
        gradients = [torch.autograd.grad(y.square().sum(), v)[0] for y in (came, expected)]
        torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_errors_name_the_value():
    with pytest.raises(EquivError, match="l_max must be a non-negative integer, got -1"):
        spherical_harmonics(-1, vectors(2))
    with pytest.raises(EquivError, match=r"last axis of length 3 .*got shape \(4, 2\)"):
        spherical_harmonics(1, torch.zeros(4, 2))
    with pytest.raises(EquivError, match=r"floating-point tensor, got torch\.int64"):
        spherical_harmonics(1, torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(EquivError, match="one of component, norm, integral, got 'components'"):
        spherical_harmonics(1, vectors(2), normalization="components")  # pyright: ignore
