"""``check_model`` passes a sound model and catches every broken one by the right law."""

import ase
import pytest
import torch

from equiv.testing import LAWS, check_model, small_structures

from . import toy


@pytest.fixture
def sound():
    return toy.ToyModel().double()


def test_a_sound_model_passes_and_the_errors_are_reported(sound):
    errors = check_model(sound)
    assert list(errors) == list(LAWS)
    assert all(0 <= errors[name] <= law.tolerance for name, law in LAWS.items())


BROKEN = {
    toy.PrefersAnAxis: "rotation",
    toy.IsChiral: "reflection",
    toy.KnowsWhereItStands: "translation",
    toy.CountsItsAtoms: "permutation",
    toy.SeesTheWholeBatch: "batch_equals_singles",
    toy.LosesEnergy: "energies_add_up",
    toy.PushesTooHard: "forces",
    toy.PressesTooHard: "stress",
    toy.ForgetsTheVolume: "stress",
    toy.LearnsTheWrongWay: "training_gradients",
    toy.CannotLearn: "training_gradients",
    toy.EndsAbruptly: "smoothness_at_cutoff",
    toy.HasAKink: "smoothness_at_cutoff",
    toy.CancelsDigits: "float32_against_float64",
    toy.IsNotExtensive: "extensivity",
    toy.RemembersTheLastCall: "repeatability",
    toy.EditsItsInput: "repeatability",
}


@pytest.mark.parametrize(("kind", "law"), BROKEN.items(), ids=lambda x: getattr(x, "__name__", x))
def test_a_broken_model_breaks_its_law(kind, law):
    with pytest.raises(AssertionError, match=rf"{kind.__name__} breaks 1 law:\n{law}: "):
        check_model(kind().double(), laws=[law])


def test_every_law_is_broken_by_some_model():
    assert set(LAWS) - {"save_and_load"} <= set(BROKEN.values())


def test_what_is_kept_out_of_recipe_and_weights_is_found():
    model = toy.KeepsSomethingBack().double()
    model.hidden = 1.5
    with pytest.raises(AssertionError, match="save_and_load: a stored and reloaded model"):
        check_model(model, laws=["save_and_load"])


def test_a_chiral_model_is_otherwise_sound():
    errors = check_model(toy.IsChiral().double(), laws=[law for law in LAWS if law != "reflection"])
    assert errors["rotation"] < 1e-12


def test_the_message_names_quantity_structure_and_error(sound):
    with pytest.raises(
        AssertionError, match=r"of '[a-z_]+'.*: error \d\.\de-\d\d, allowed 1\.0e-30"
    ):
        check_model(sound, laws=["rotation"], tolerances={"rotation": 1e-30})


def test_all_broken_laws_are_named_at_once():
    with pytest.raises(AssertionError, match=r"breaks \d laws") as caught:
        check_model(toy.KnowsWhereItStands().double())
    assert "translation:" in str(caught.value)
    assert "extensivity:" in str(caught.value)


def test_a_model_of_zeros_is_refused():
    with pytest.raises(ValueError, match="a model of zeros obeys every law"):
        check_model(toy.DoesNothing().double())


def test_forces_that_are_not_finite_are_named():
    with pytest.raises(AssertionError, match=r"not finite for .*molecule"):
        check_model(toy.GivesNan().double())


def test_an_unknown_law_is_an_error(sound):
    with pytest.raises(ValueError, match="there is no law 'gravity'; the laws are rotation, "):
        check_model(sound, laws=["gravity"])


def test_the_model_given_is_left_alone(sound):
    sound.train()
    before = {key: value.clone() for key, value in sound.state_dict().items()}
    check_model(sound.float(), laws=["training_gradients", "float32_against_float64"])
    assert sound.training
    assert sound.dtype == torch.float32
    for key, value in sound.state_dict().items():
        assert torch.equal(value, before[key].float())


def test_own_structures_can_be_given(sound):
    water = ase.Atoms("OHH", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    check_model(sound, structures={"water": water}, laws=["rotation", "forces"])


def test_the_small_structures_are_what_they_say():
    zoo = small_structures((1, 6, 8), cutoff=4.0)
    assert [len(atoms) for atoms in zoo.values()] == [6, 3, 3, 3, 3, 1, 2, 1, 0]
    assert zoo["apart"].get_distance(0, 1) > 4.0
    assert zoo["slab"].pbc.sum() == 2
    assert zoo["slab"].cell.rank == 2
    assert zoo["wire"].pbc.sum() == 1
    assert zoo["left_handed"].cell.handedness == -1
    assert set(zoo["molecule"].numbers) == {1, 6, 8}
    zoo["molecule"].positions += 1
    assert not (small_structures()["molecule"].positions == zoo["molecule"].positions).any()
