import pytest
import torch
from e3nn import o3

from equiv.errors import EquivError
from equiv.so3 import irreps_matrix, random_rotations, rotate_spherical, wigner_matrix


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_random_rotations_are_rotations_from_the_given_generator_alone():
    state = torch.random.get_rng_state()
    rotations = random_rotations(4, 2, generator=generator())
    assert torch.equal(torch.random.get_rng_state(), state)
    identity = torch.eye(3, dtype=torch.float64).expand(4, 2, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, identity, atol=1e-14, rtol=0)
    assert torch.linalg.det(rotations).round().eq(1).all()
    assert torch.equal(rotations, random_rotations(4, 2, generator=generator()))
    assert torch.equal(-rotations, random_rotations(4, 2, generator=generator(), improper=True))


def test_random_rotations_are_uniform():
    """The mean of D^l over the group vanishes, and that of its squared trace is 1."""
    rotations = random_rotations(20000, generator=generator())
    for l in (1, 2):
        d = wigner_matrix(l, rotations)
        assert d.mean(0).abs().max() < 0.02
        assert d.diagonal(dim1=-2, dim2=-1).sum(-1).square().mean().item() == pytest.approx(
            1, abs=0.05
        )


@pytest.fixture
def double_precision():
    """e3nn makes its generators in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double_precision")
def test_wigner_matrices_equal_e3nn():
    rotations = random_rotations(5, generator=generator())
    for l in range(7):
        theirs = o3.wigner_D(l, *o3.matrix_to_angles(rotations))
        torch.testing.assert_close(wigner_matrix(l, rotations), theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("l", [1, 3, 12, 25])
def test_wigner_matrices_are_an_orthogonal_representation(l):
    a, b = random_rotations(2, generator=generator())
    d_a, d_b = wigner_matrix(l, a), wigner_matrix(l, b)
    torch.testing.assert_close(wigner_matrix(l, a @ b), d_a @ d_b, atol=1e-12, rtol=0)
    identity = torch.eye(2 * l + 1, dtype=torch.float64)
    torch.testing.assert_close(d_a @ d_a.T, identity, atol=1e-12, rtol=0)


def test_parity_is_the_sign_under_inversion():
    inversion = -torch.eye(3, dtype=torch.float64)
    for l in range(4):
        identity = torch.eye(2 * l + 1, dtype=torch.float64)
        for parity, sign in ((None, (-1) ** l), (1, 1), (-1, -1)):
            d = wigner_matrix(l, inversion, parity=parity)
            torch.testing.assert_close(d, sign * identity, atol=1e-14, rtol=0)


@pytest.mark.usefixtures("double_precision")
def test_flat_irreps_turn_as_in_e3nn():
    irreps = "2x0e+0o+2x1o+1e+2e+3e"
    rotation = random_rotations(generator=generator())
    for r in (rotation, -rotation):
        theirs = o3.Irreps(irreps).D_from_matrix(r)
        torch.testing.assert_close(irreps_matrix(irreps, r), theirs, atol=1e-12, rtol=0)


def test_wigner_matrices_are_differentiable():
    rotation = random_rotations(generator=generator()).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: wigner_matrix(3, r), rotation)


def test_errors():
    rotation = torch.eye(3)
    with pytest.raises(EquivError, match=r"expected a spherical tensor .* got shape \(5, 2\)"):
        rotate_spherical(torch.zeros(5, 2), rotation)
    with pytest.raises(EquivError, match=r"must be a floating tensor \[\.\.\., 3, 3\]"):
        wigner_matrix(1, torch.eye(2))
    with pytest.raises(EquivError, match="parity 1, -1 or None, got 1 and 2"):
        wigner_matrix(1, rotation, parity=2)
