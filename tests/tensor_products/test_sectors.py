import pytest
import torch

from equiv.errors import EquivError
from equiv.tensor_products import sectors_of


def test_irreps_are_sorted_by_parity_and_degree():
    sectors = sectors_of("2x1e+3x2e+1x1e+3x0e+3x4e")
    assert (sectors.channels, sectors.natural, sectors.pseudo) == (3, (0, 2, 4), (1,))
    assert sectors.dims == (25, 4)
    assert sectors.rows == ((1, 0), (1, 2), (1, 4), (-1, 1))
    assert sectors.l_max(1) == 4
    assert sectors_of("2x1o").l_max(-1) == -1


def test_flat_rows_go_to_two_stacks_and_back():
    sectors = sectors_of("2x1e+3x2e+1x1e+3x0e")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 27, generator=g)
    natural, pseudo = sectors.split(x)
    assert natural.shape == (5, 9, 3)
    assert pseudo.shape == (5, 4, 3)
    assert natural[:, 1:4].abs().max() == 0  # no vectors
    assert pseudo[:, 0].abs().max() == 0  # no pseudoscalars
    torch.testing.assert_close(pseudo[:, 1:, 0], x[:, :3])
    torch.testing.assert_close(pseudo[:, 1:, 2], x[:, 21:24])  # the third channel comes later
    torch.testing.assert_close(natural[:, 4:, 1], x[:, 11:16])
    torch.testing.assert_close(sectors.join((natural, pseudo)), x)


def test_several_multiplicities_and_nothing_are_refused():
    with pytest.raises(EquivError, match=r"x: .* has 2 channels of 1o but 3 of 0e; .*'clebsch_go"):
        sectors_of("3x0e+2x1o", "x")
    with pytest.raises(EquivError, match="is empty"):
        sectors_of("0x0e")
