"""The limit on memory while a model of a stranger is built."""

import pytest
import torch

from equiv.errors import ModelFileError
from equiv.models.allocation import AllocationLimit


def test_the_limit_on_allocations_stops_before_the_memory_is_taken():
    with AllocationLimit(100), pytest.raises(ModelFileError):
        torch.empty(10**12)
    for make in (
        lambda: torch.randn(20, 6),
        lambda: torch.zeros((20, 6)),
        lambda: torch.ones(size=(20, 6)),
        lambda: torch.full((20, 6), 1.0),
        lambda: torch.arange(120),
        lambda: torch.eye(11),
        lambda: [torch.rand(60) for _ in range(2)],
    ):
        with AllocationLimit(100), pytest.raises(ModelFileError):
            make()
        with AllocationLimit(121):
            make()


def test_what_is_made_from_tensors_that_exist_is_not_counted():
    existing = torch.ones(200)
    with AllocationLimit(10):
        assert (existing + 1).sum() == 400
