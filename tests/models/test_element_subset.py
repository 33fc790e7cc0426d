import pytest
import torch
from ase.build import bulk, molecule

from equiv.errors import EquivError, UnknownElementError
from equiv.graph import AtomGraph, collate
from equiv.models import MACE
from equiv.models.element_subset import restricted_to

from ..laws.table import mace


def predictions(model, *structures):
    batch = collate([AtomGraph.from_atoms(atoms, model.cutoff) for atoms in structures])
    return model(batch, stress=True)


def test_a_smaller_model_says_the_same_about_its_elements():
    large = mace(zbl=True).eval().requires_grad_(False)
    large.card["note"] = {"kept": True}
    for elements in (["H", "O"], [8], ["O", 6, "H"]):
        small = restricted_to(large, elements)
        assert isinstance(small, MACE)
        assert not small.training
        assert small.card == large.card
        assert sum(p.numel() for p in small.parameters()) <= sum(
            p.numel() for p in large.parameters()
        )
        structure = molecule("H2O") if 1 in small.elements else bulk("O", "fcc", a=3.0)
        a, b = predictions(large, structure), predictions(small, structure)
        torch.testing.assert_close(a.energy, b.energy, rtol=0, atol=1e-11)
        torch.testing.assert_close(a.forces, b.forces, rtol=0, atol=1e-12)
        torch.testing.assert_close(a.virials, b.virials, rtol=0, atol=1e-12)
    again = type(small)(**small.recipe).double()
    again.load_state_dict(small.state_dict())


def test_the_smaller_model_does_not_know_the_others():
    small = restricted_to(mace(), ["H", "O"])
    with pytest.raises(UnknownElementError, match="holds C, but this model was trained on H, O"):
        predictions(small, molecule("CO"))


@pytest.mark.parametrize(
    ("elements", "words"),
    [(["N"], "expected some of H, C, O; got N"), ([], "got none"), (["Q"], "got X")],
)
def test_elements_must_be_among_those_of_the_model(elements, words):
    with pytest.raises(EquivError, match=words):
        restricted_to(mace(), elements)
