"""Where the structure stands, and which periodic image of an atom is named, is no matter.

No layer takes positions, so the law is one of models and of the graph that feeds them.
"""

from equiv.testing import check_model


def test_moving_everything_or_an_atom_by_lattice_vectors_changes_nothing(model):
    check_model(model, laws=["translation"])
