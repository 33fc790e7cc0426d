import pytest
import torch

from equiv import EquivError
from equiv.so3 import random_rotations, wigner_matrix
from equiv.so3.frames import WignerMatrices, edge_rotations

AXES = torch.tensor(
    [[0, 1, 0], [0, -1, 0], [1, 0, 0], [0, 0, 1], [-1, 0, 0], [0, 0, -1]], dtype=torch.float64
)


def directions(n=50):
    g = torch.Generator().manual_seed(0)
    v = torch.cat([AXES, torch.randn(n, 3, generator=g, dtype=torch.float64)])
    return v / v.norm(dim=1, keepdim=True)


def test_they_turn_the_polar_axis_into_the_direction():
    r = directions()
    rotations = edge_rotations(3.7 * r)
    torch.testing.assert_close(rotations[..., 1], r, atol=1e-15, rtol=0)
    eye = torch.eye(3, dtype=torch.float64).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, eye, atol=1e-15, rtol=0)
    assert (torch.linalg.det(rotations) > 0).all()


@pytest.mark.parametrize("axis", AXES[:4])
def test_derivatives_are_finite_and_right_at_the_poles(axis):
    vector = (axis + torch.tensor([0.0, 1e-3, 0.0])).requires_grad_()
    assert torch.autograd.gradcheck(edge_rotations, (vector,))
    assert torch.autograd.gradgradcheck(edge_rotations, (vector,))


def test_no_length_no_rotation_no_gradient():
    vector = torch.zeros(3, requires_grad=True)
    rotation = edge_rotations(vector)
    assert (rotation == 0).all()
    (gradient,) = torch.autograd.grad(rotation.sum(), vector)
    assert (gradient == 0).all()


def test_matrices_are_those_of_the_recursion():
    g = torch.Generator().manual_seed(1)
    rotations = torch.stack(
        [random_rotations(3, generator=g), random_rotations(3, generator=g, improper=True)]
    )
    matrices = WignerMatrices(6).double()(rotations)
    assert len(matrices) == 7
    for l, d in enumerate(matrices):
        torch.testing.assert_close(d, wigner_matrix(l, rotations), atol=1e-14, rtol=0)


def test_arguments_are_checked():
    with pytest.raises(EquivError, match=r"floating tensor \[\.\.\., 3\]"):
        edge_rotations(torch.ones(2, 4))
    with pytest.raises(EquivError, match="l_max must be a non-negative integer, got -1"):
        WignerMatrices(-1)
