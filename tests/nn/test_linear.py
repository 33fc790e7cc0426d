import pytest
import torch

from equiv.nn.linear import ElementLinear, SphericalLinear


def test_each_degree_has_its_own_matrix():
    layer = SphericalLinear(2, 1, degree=1)
    with torch.no_grad():
        layer.weights[0].copy_(torch.tensor([[1.0], [2.0]]))
        layer.weights[1].copy_(torch.tensor([[0.0], [-1.0]]))
    x = torch.arange(8.0).view(1, 4, 2)
    expected = torch.tensor([0 + 2 * 1, -3.0, -5.0, -7.0]) / 2**0.5
    torch.testing.assert_close(layer(x)[0, :, 0], expected)


def test_degrees_may_differ_in_channels():
    layer = SphericalLinear([2, 5], 3, degree=1)
    assert layer([torch.ones(4, 1, 2), torch.ones(4, 3, 5)]).shape == (4, 4, 3)


def test_wrong_number_of_widths_is_named():
    with pytest.raises(ValueError, match=r"3 widths for degrees 0\.\.2, got \[1, 2\]"):
        SphericalLinear([1, 2], 3, degree=2)


def test_atoms_meet_the_matrix_of_their_element():
    layer = ElementLinear(2, 2, degree=1, num_elements=3)
    x = torch.randn(4, 4, 2, generator=torch.Generator().manual_seed(0))
    species = torch.tensor([0, 2, 2, 2])
    weight = layer.weight[species] / (2 * 3) ** 0.5
    expected = torch.cat(
        [
            torch.einsum("nma,nab->nmb", x[:, :1], weight[:, 0]),
            torch.einsum("nma,nab->nmb", x[:, 1:], weight[:, 1]),
        ],
        dim=1,
    )
    torch.testing.assert_close(layer(x, [1, 0, 3]), expected)


def test_no_atoms_give_no_features():
    assert ElementLinear(2, 5, degree=1, num_elements=2)(torch.zeros(0, 4, 2), [0, 0]).shape == (
        0,
        4,
        5,
    )
