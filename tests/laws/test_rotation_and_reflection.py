"""Turning what goes in turns what comes out."""

import pytest

from equiv.testing import assert_equivariant, check_model


def test_rotations_and_reflections_commute_with_the_layer(entry):
    layer = entry.made()
    assert_equivariant(
        lambda *inputs: entry.results(layer, inputs),
        entry.given(),
        behaviors_in=entry.behaviors_in,
        behaviors_out=entry.behaviors_out,
        tolerance=1e-12,
    )


@pytest.mark.parametrize("law", ["rotation", "reflection"])
def test_energy_forces_and_virials_turn_with_the_atoms(model, law):
    check_model(model, laws=[law])
