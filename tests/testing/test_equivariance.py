import pytest
import torch
from e3nn import o3

from equiv.so3 import random_rotations
from equiv.testing import Spherical, assert_equivariant, turn


def vectors(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 3, dtype=torch.float64, generator=g)


def test_a_cross_product_is_a_pseudovector_and_not_a_vector():
    a, b = vectors(0, 5), vectors(1, 5)
    assert_equivariant(
        torch.linalg.cross, [a, b], behaviors_in=["1o", "vector"], behaviors_out="1e"
    )
    with pytest.raises(AssertionError, match=r"improper rotation .*it should turn as '1o'"):
        assert_equivariant(
            torch.linalg.cross, [a, b], behaviors_in=["1o", "1o"], behaviors_out="1o"
        )


def test_one_component_is_no_invariant():
    with pytest.raises(AssertionError, match="not equivariant under a rotation"):
        assert_equivariant(
            lambda v: v[:, 0], [vectors(0, 4)], behaviors_in=["vector"], behaviors_out=None
        )


def test_a_small_error_is_found_and_a_tolerance_allows_it():
    def nearly(v):
        return v.square().sum(-1) + 1e-6 * v[:, 2]

    given = dict(inputs=[vectors(0, 4)], behaviors_in=["vector"], behaviors_out=None)
    with pytest.raises(AssertionError, match="output 0"):
        assert_equivariant(nearly, **given)
    assert 1e-8 < assert_equivariant(nearly, **given, tolerance=1e-5) < 1e-5


def test_several_outputs_and_the_layout_of_models():
    def both(v):
        y = o3.spherical_harmonics([0, 1, 2], v, normalize=True, normalization="component")
        return y, y.unsqueeze(-1) * torch.tensor([1.0, 2.0], dtype=torch.float64)

    assert_equivariant(
        both,
        [vectors(0, 6)],
        behaviors_in=["vector"],
        behaviors_out=["0e+1o+2e", Spherical(2)],
        tolerance=1e-6,  # of e3nn's coefficients
    )
    with pytest.raises(AssertionError, match="output 1"):
        assert_equivariant(
            lambda v: (both(v)[0], both(v)[1].flip(1)),
            [vectors(0, 6)],
            behaviors_in=["vector"],
            behaviors_out=["0e+1o+2e", Spherical(2)],
            tolerance=1e-6,
        )


def test_turning_agrees_with_e3nn():
    rotation = random_rotations(generator=torch.Generator().manual_seed(1))
    x = torch.randn(4, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    irreps = o3.Irreps("2x1o+1x1e+1x2e")
    expected = x @ irreps.D_from_matrix(rotation).T
    torch.testing.assert_close(turn(x, irreps, rotation), expected, rtol=0, atol=1e-5)


def test_shapes_that_cannot_turn_are_named():
    with pytest.raises(ValueError, match=r"shape \(4, 3\) cannot turn as '2x1o', which needs 6"):
        turn(vectors(0, 4), "2x1o", torch.eye(3, dtype=torch.float64))


def test_a_function_that_vanishes_proves_nothing():
    with pytest.raises(ValueError, match="output 0 is zero on these inputs"):
        assert_equivariant(
            lambda v: 0 * v, [vectors(0, 4)], behaviors_in=["vector"], behaviors_out="vector"
        )


def test_lists_must_match():
    with pytest.raises(ValueError, match="1 inputs but 2 behaviors_in"):
        assert_equivariant(
            lambda v: v, [vectors(0, 4)], behaviors_in=["1o", "1o"], behaviors_out="1o"
        )
    with pytest.raises(ValueError, match="1 outputs but behaviors_out names 2"):
        assert_equivariant(
            lambda v: v, [vectors(0, 4)], behaviors_in=["1o"], behaviors_out=["1o", "1o"]
        )
