import pytest
import torch

from equiv.graph.sorting import sorting_order


@pytest.mark.parametrize("largest", [3, 10**6, 2**61])
def test_equal_keys_keep_their_order(largest):
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(largest, (1000,), generator=generator)
    assert torch.equal(sorting_order(keys), torch.argsort(keys, stable=True))


def test_nothing_has_an_order():
    assert sorting_order(torch.zeros(0, dtype=torch.long)).shape == (0,)
