"""Autograd agrees with finite differences, twice: training on forces needs the second."""

import pytest
import torch
from torch.func import functional_call

from equiv.testing import assert_gradient, check_model


def test_first_and_second_derivatives_by_inputs_and_weights_are_right(entry):
    layer, inputs = entry.made(), entry.given()
    names = [name for name, _ in layer.named_parameters()]
    tensors = [*inputs, *(p.detach() for _, p in layer.named_parameters())]
    sizes, shapes = [t.numel() for t in tensors], [t.shape for t in tensors]

    class Applied(torch.nn.Module):
        """So that the entry's own call runs with weights from outside."""

        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, given):
            return torch.cat([y.flatten() for y in entry.results(self.layer, given)])

    applied = Applied()

    def function(flat):
        parts = [p.view(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]
        weights = {f"layer.{n}": p for n, p in zip(names, parts[len(inputs) :], strict=True)}
        return functional_call(applied, weights, (parts[: len(inputs)],))

    point = torch.cat([t.flatten() for t in tensors])
    assert_gradient(function, point, step=entry.step, tolerance=2e-6)


@pytest.mark.parametrize("law", ["forces", "stress"])
def test_forces_and_stress_are_slopes_of_the_energy(model, law):
    check_model(model, laws=[law])


def test_the_gradient_of_a_loss_on_forces_is_right(model):
    check_model(model, laws=["training_gradients"])
