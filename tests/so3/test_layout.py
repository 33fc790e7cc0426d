import pytest
import torch

from equiv.errors import EquivError
from equiv.so3 import (
    Irreps,
    flat_from_spherical,
    irreps_matrix,
    random_rotations,
    rotate_spherical,
    spherical_from_flat,
)


def test_by_hand():
    flat = torch.tensor([10.0, 20.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    spherical = spherical_from_flat(flat, "2x0e+2x1o")
    assert spherical.tolist() == [[10, 20], [1, 4], [2, 5], [3, 6]]


@pytest.mark.parametrize(
    "irreps", ["5x0e", "3x0e+3x1o+3x2e+3x3o", "1x2e+2x1o+2x0e+1x2e", "2x0e+0x1o"]
)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_round_trip_both_ways(irreps, shape):
    flat = torch.randn(*shape, Irreps(irreps).dim, generator=torch.Generator().manual_seed(0))
    spherical = spherical_from_flat(flat, irreps)
    assert torch.equal(flat_from_spherical(spherical, irreps), flat)
    again = spherical_from_flat(flat_from_spherical(spherical, irreps), irreps)
    assert torch.equal(again, spherical)


def test_both_layouts_turn_alike():
    irreps = "3x0e+2x1o+3x2e+1x1o"
    g = torch.Generator().manual_seed(3)
    flat = torch.randn(4, Irreps(irreps).dim, dtype=torch.float64, generator=g)
    for improper in (False, True):
        rotation = random_rotations(generator=g, improper=improper)
        one = spherical_from_flat(flat @ irreps_matrix(irreps, rotation).T, irreps)
        other = rotate_spherical(spherical_from_flat(flat, irreps), rotation)
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)


def test_wrong_shapes_are_refused():
    with pytest.raises(EquivError, match=r"needs a last axis of length 8, got shape \(3, 7\)"):
        spherical_from_flat(torch.zeros(3, 7), "2x0e+2x1o")
    with pytest.raises(EquivError, match=r"needs shape \[\.\.\., 4, 2\].*got shape \(3, 2, 4\)"):
        flat_from_spherical(torch.zeros(3, 2, 4), "2x0e+2x1o")
    with pytest.raises(EquivError, match="has not the natural parity"):
        spherical_from_flat(torch.zeros(3, 4), "0e+1e")
