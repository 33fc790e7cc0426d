import math

import torch

from equiv.constants import ExactConstants


def test_a_constant_survives_a_visit_to_float32():
    module = ExactConstants()
    module.register_constant("value", torch.tensor(math.pi, dtype=torch.float64))
    assert module.float().value.dtype == torch.float32
    assert module.double().value.item() == math.pi
    assert "value" not in module.state_dict()
