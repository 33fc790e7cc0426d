import pytest
import torch

from equiv.tensor_products.many_body import ManyBodyProduct
from equiv.tensor_products.many_body_reference import many_body_reference


@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
def test_horner_gives_the_polynomial_of_the_definition(correlation):
    generator = torch.Generator().manual_seed(0)
    degree_in = 2 if correlation < 4 else 1
    product = ManyBodyProduct(degree_in, 1, 3, correlation=correlation, num_elements=3).double()
    species = torch.tensor([0, 0, 2, 2, 2])
    x = torch.randn(5, (degree_in + 1) ** 2, 3, dtype=torch.float64, generator=generator)

    ours = product(x, [2, 0, 3])

    expected = torch.cat(
        [
            many_body_reference(x, species, list(p.weights), degree_in=degree_in, degree_out=degree)
            for degree, p in enumerate(product.polynomials)
        ],
        dim=1,
    )
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)
    assert expected.abs().max() > 1e-2


def test_no_atoms_give_no_products():
    product = ManyBodyProduct(2, 1, 3, correlation=3, num_elements=2)
    assert product(torch.zeros(0, 9, 3), [0, 0]).shape == (0, 4, 3)


def test_correlation_out_of_range_is_named():
    with pytest.raises(ValueError, match="correlation must be 1, 2, 3 or 4, got 5"):
        ManyBodyProduct(2, 1, 3, correlation=5, num_elements=1)
