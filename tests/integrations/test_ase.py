"""The ASE calculator: right numbers, right errors, whatever ASE does with it."""

import copy
import pickle
import subprocess
import sys
import threading
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError, get_calculator_class
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.io import read
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS

import equiv
from equiv.errors import EquivError, ModelFileError, UnknownElementError
from equiv.integrations.ase import EquivCalculator
from equiv.models import build_model

PROPERTIES = ("energy", "free_energy", "energies", "forces", "stress", "stresses")


def make_model(seed=0, dtype=torch.float64, **changes):
    recipe = {
        "elements": ["H", "O", "Si"],
        "cutoff": 3.5,
        "channels": 2,
        "edge_degree": 1,
        "correlation": 2,
        "radial_hidden": [8],
        "mean_neighbors": 8.0,
        "reference_energies": {"H": -13.0, "O": -430.0, "Si": -290.0},
    }
    return build_model("mace", seed=seed, dtype=dtype, **{**recipe, **changes})


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def model_path(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model.save(path)
    return path


def crystal(repeat=1):
    atoms = bulk("Si", cubic=True).repeat((repeat, 1, 1))
    atoms.rattle(0.1, seed=0)
    deformation = np.array([[1.0, 0.04, 0], [0, 1.02, 0], [0.01, 0, 1.0]])
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return atoms


def slab():
    atoms = fcc111("Si", (2, 2, 1), a=5.0, vacuum=4.0)
    atoms.rattle(0.1, seed=1)
    atoms.wrap()
    assert atoms.pbc.tolist() == [True, True, False]
    return atoms


def test_every_declared_property_has_its_shape_and_no_other_is_declared(model):
    atoms = crystal()
    atoms.calc = EquivCalculator(model)
    assert tuple(atoms.calc.implemented_properties) == PROPERTIES
    shapes = {name: np.shape(atoms.calc.get_property(name, atoms)) for name in PROPERTIES}
    assert shapes == {
        "energy": (),
        "free_energy": (),
        "energies": (8,),
        "forces": (8, 3),
        "stress": (6,),
        "stresses": (8, 6),
    }
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_dipole_moment()


def test_parts_add_up(model):
    atoms = crystal()
    atoms.calc = EquivCalculator(model)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    stress = atoms.get_stress()
    assert abs(stress).max() > 1e-5
    np.testing.assert_allclose(atoms.get_stresses().sum(0), stress, atol=1e-14)


@pytest.mark.parametrize("make", [crystal, slab])
def test_forces_and_stress_are_derivatives_of_the_energy(model, make):
    atoms = make()
    atoms.calc = EquivCalculator(model)
    assert abs(atoms.get_forces()).max() > 1e-4
    np.testing.assert_allclose(
        atoms.get_forces(), calculate_numerical_forces(atoms, 1e-4), atol=1e-7
    )
    np.testing.assert_allclose(
        atoms.get_stress(), calculate_numerical_stress(atoms, 1e-5), atol=1e-7
    )


def test_the_hessian_is_the_derivative_of_the_forces(model):
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=0)
    atoms.calc = EquivCalculator(model)
    hessian = atoms.calc.get_hessian(atoms)
    numerical = np.zeros((9, 9))
    step = 1e-5
    for i in range(9):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions.flat[i] += sign * step
            moved.calc = EquivCalculator(model)
            ends.append(moved.get_forces().ravel())
        numerical[i] = -(ends[0] - ends[1]) / (2 * step)
    assert abs(numerical).max() > 0.01
    np.testing.assert_allclose(hessian, numerical, atol=1e-6)


def test_a_calculator_without_atoms_says_so(model):
    with pytest.raises(EquivError, match="no atoms yet"):
        EquivCalculator(model).get_property("energy")
    with pytest.raises(EquivError, match=r"get_hessian\(atoms\)"):
        EquivCalculator(model).get_hessian()


def test_results_are_those_of_the_model(model):
    from equiv.graph import AtomGraph, collate

    atoms = crystal()
    atoms.calc = EquivCalculator(model)
    batch = collate([AtomGraph.from_atoms(atoms, model.cutoff)])
    prediction = model.eval()(batch, stress=True)
    assert atoms.get_potential_energy() == prediction.energy.item()
    # Not bitwise: the list of neighbours with a skin has its own order of pairs.
    np.testing.assert_allclose(atoms.get_forces(), prediction.forces, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        atoms.get_stress(voigt=False), prediction.stress[0], rtol=0, atol=1e-15
    )


def test_energy_alone_costs_no_forces_and_stress_comes_along_once_wanted(model):
    atoms = crystal()
    atoms.calc = EquivCalculator(model)
    atoms.get_potential_energy()
    assert "forces" not in atoms.calc.results
    atoms.get_forces()
    assert "stress" not in atoms.calc.results
    atoms.get_stress()
    atoms.rattle(0.01, seed=3)
    atoms.get_forces()
    assert {"forces", "stress"} <= atoms.calc.results.keys()


@pytest.mark.parametrize("atoms", [molecule("H2O"), Atoms("Si", cell=[4, 4, 4])], ids=str)
def test_structures_that_are_not_periodic_have_no_stress(model, atoms):
    atoms = atoms.copy()
    atoms.calc = EquivCalculator(model)
    for ask in (atoms.get_stress, atoms.get_stresses):
        with pytest.raises(PropertyNotImplementedError, match="stress needs a periodic structure"):
            ask()
    assert np.isfinite(atoms.get_potential_energy())
    assert np.isfinite(atoms.get_forces()).all()


def test_one_calculator_serves_crystal_and_molecule_in_turn(model):
    calc = EquivCalculator(model)
    solid, gas = crystal(), molecule("H2O")
    alone = {}
    for atoms in (solid, gas):
        atoms.calc = EquivCalculator(model)
        alone[len(atoms)] = atoms.get_potential_energy()
    for _ in range(2):
        for atoms in (solid, gas):
            atoms.calc = calc
            if atoms is solid:
                atoms.get_stress()
            assert atoms.get_potential_energy() == alone[len(atoms)]


@pytest.mark.parametrize(
    ("atoms", "energy"),
    [
        (Atoms(), 0.0),
        (Atoms("Si"), -290.0),
        (Atoms("SiH", positions=[[0, 0, 0], [0, 0, 9]]), -303.0),
    ],
    ids=str,
)
def test_atoms_without_neighbours_have_their_reference_energies(model, atoms, energy):
    atoms = atoms.copy()
    atoms.calc = EquivCalculator(model)
    assert atoms.get_potential_energy() == pytest.approx(energy)
    assert atoms.get_forces().shape == (len(atoms), 3)
    assert not atoms.get_forces().any()
    assert atoms.calc.get_hessian(atoms).shape == (3 * len(atoms), 3 * len(atoms))


def test_one_atom_in_a_periodic_cell_feels_its_images(model):
    atoms = Atoms("Si", cell=[2.5, 2.7, 2.9], pbc=True)
    atoms.calc = EquivCalculator(model)
    assert abs(atoms.get_potential_energy() + 290.0) > 1e-6
    np.testing.assert_allclose(atoms.get_forces(), 0, atol=1e-12)
    np.testing.assert_allclose(
        atoms.get_stress(), calculate_numerical_stress(atoms, 1e-5), atol=1e-7
    )


def test_unseen_elements_are_named(model):
    atoms = Atoms("SiCAu", positions=np.eye(3) * 2)
    atoms.calc = EquivCalculator(model)
    with pytest.raises(UnknownElementError, match=r"C, Au.*H, O, Si"):
        atoms.get_potential_energy()


def test_positions_that_are_no_numbers_are_refused(model):
    atoms = crystal()
    atoms.positions[3, 1] = np.nan
    atoms.calc = EquivCalculator(model)
    with pytest.raises(EquivError, match="not finite numbers"):
        atoms.get_forces()


def test_results_that_are_no_numbers_are_refused(model):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.embedding.fill_(1e300)
    atoms = crystal()
    atoms.calc = EquivCalculator(broken)
    with pytest.raises(EquivError, match="not finite for Si8"):
        atoms.get_potential_energy()


def test_constraints_are_for_ase_and_do_not_change_the_results(model):
    free, fixed = crystal(), crystal()
    fixed.set_constraint(FixAtoms([0, 1]))
    for atoms in (free, fixed):
        atoms.calc = EquivCalculator(model)
    assert not fixed.get_forces()[:2].any()
    np.testing.assert_array_equal(fixed.get_forces(apply_constraint=False), free.get_forces())
    np.testing.assert_array_equal(fixed.calc.results["forces"], free.get_forces())


def test_a_later_change_of_the_model_does_not_change_the_results(model):
    mine = copy.deepcopy(model)
    atoms = crystal()
    atoms.calc = EquivCalculator(mine)
    before = atoms.get_potential_energy()
    with torch.no_grad():
        mine.embedding.add_(1.0)
    atoms.calc.reset()
    assert atoms.get_potential_energy() == before
    assert all(p.requires_grad for p in mine.parameters())


def test_a_file_gives_what_the_model_gives_and_the_card(model, model_path):
    atoms, same = crystal(), crystal()
    atoms.calc, same.calc = equiv.EquivCalculator(model_path), EquivCalculator(model)
    np.testing.assert_array_equal(atoms.get_forces(), same.get_forces())
    assert atoms.calc.card == {}
    assert atoms.calc.name == "equiv"
    assert atoms.calc.todict()["model"] == str(model_path)


def test_single_precision_is_close_and_chosen_by_dtype(model_path):
    exact, fast = crystal(), crystal()
    exact.calc = EquivCalculator(model_path)
    fast.calc = EquivCalculator(model_path, dtype="float32")
    difference = abs(exact.get_forces() - fast.get_forces()).max()
    assert 0 < difference < 1e-5
    assert fast.calc.todict()["dtype"] == "float32"


def test_arguments_that_cannot_be_used_are_refused(model, model_path, tmp_path):
    with pytest.raises(EquivError, match="skin should be"):
        EquivCalculator(model, skin=-1.0)
    with pytest.raises(EquivError, match="float32 or float64"):
        EquivCalculator(model_path, dtype="half")
    with pytest.raises(EquivError, match="float32 or float64"):
        EquivCalculator(model, dtype="half")
    with pytest.raises(EquivError, match="device nowhere"):
        EquivCalculator(model, device="nowhere")
    with pytest.raises(ModelFileError, match="no such file"):
        EquivCalculator(tmp_path / "missing.safetensors")
    with pytest.raises(EquivError, match="cannot change skin"):
        EquivCalculator(model).set(skin=1.0)


@pytest.mark.parametrize(
    "copy_of", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_compute_the_same_and_are_independent(model, copy_of):
    atoms, other = crystal(), crystal()
    atoms.calc = EquivCalculator(model)
    energy = atoms.get_potential_energy()
    other.calc = copy_of(atoms.calc)
    assert other.get_potential_energy() == energy
    other.rattle(0.1, seed=5)
    assert other.get_potential_energy() != energy
    assert atoms.get_potential_energy() == energy


def test_threads_sharing_a_calculator_get_their_own_results(model):
    shared = EquivCalculator(model)
    structures = [crystal() for _ in range(4)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=10 + seed)
    expected = []
    for atoms in structures:
        atoms.calc = EquivCalculator(model)
        expected.append(atoms.get_forces())
    found = [[] for _ in structures]

    def work(i):
        for _ in range(5):
            found[i].append(shared.get_forces(structures[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(structures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, forces in zip(found, expected, strict=True):
        assert len(mine) == 5
        assert all(np.array_equal(one, forces) for one in mine)


def test_an_elastic_band_of_copies_runs(model):
    images = [molecule("H2O") for _ in range(3)]
    images[-1].rotate(20, "x")
    calc = EquivCalculator(model)
    for image in images:
        image.calc = copy.deepcopy(calc)
    band = NEB(images, method="improvedtangent")
    band.interpolate()
    assert np.isfinite(band.get_forces()).all()


def test_relaxing_lowers_the_energy(model):
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=0)
    atoms.calc = EquivCalculator(model)
    before = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=10)
    assert atoms.get_potential_energy() < before


def test_a_trajectory_keeps_the_results(model, tmp_path):
    atoms = crystal()
    atoms.calc = EquivCalculator(model)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    with Trajectory(tmp_path / "run.traj", "w") as trajectory:
        trajectory.write(atoms)
    again = read(tmp_path / "run.traj")
    np.testing.assert_array_equal(again.get_forces(), forces)
    np.testing.assert_array_equal(again.get_stress(), stress)
    assert again.calc.name == "equiv"


def run_dynamics(model, skin, steps=60):
    atoms = crystal()
    spread = np.sqrt(units.kB * 2000 * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * np.random.default_rng(0).standard_normal((8, 3)))
    atoms.calc = EquivCalculator(model, skin=skin)
    integrator = VelocityVerlet(atoms, 2 * units.fs)
    results = []
    for _ in range(steps):
        integrator.run(1)
        results.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    return atoms.calc, results


def test_the_skin_changes_nothing_along_a_run_but_the_number_of_searches(model):
    fresh_calc, fresh = run_dynamics(model, 0.0)
    calc, results = run_dynamics(model, 0.6)
    for (e0, f0, s0), (e1, f1, s1) in zip(fresh, results, strict=True):
        assert abs(e0 - e1) < 1e-12 * abs(e0)
        np.testing.assert_allclose(f1, f0, atol=1e-12)
        np.testing.assert_allclose(s1, s0, atol=1e-12)
    assert fresh_calc._neighbors.searches >= 60
    assert 2 <= calc._neighbors.searches < 20


def test_ase_finds_the_calculator_by_name():
    assert get_calculator_class("equiv") is EquivCalculator


def test_the_installed_package_is_an_ase_plugin():
    plugins = pytest.importorskip("ase._4.plugins").plugins
    assert [entry.name for entry in entry_points(group="ase.plugins") if entry.name == "equiv"]
    plugin = next(plugin for plugin in plugins if plugin.name == "equiv")
    assert plugin.package == "equiv"
    assert plugin() is EquivCalculator


def test_asking_ase_for_its_plugins_does_not_import_torch():
    code = (
        "import sys\n"
        "from ase._4.plugins import plugins\n"
        "assert any(plugin.name == 'equiv' for plugin in plugins)\n"
        "assert 'torch' not in sys.modules\n"
    )
    pytest.importorskip("ase._4.plugins")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_command_line_of_ase_runs_the_calculator(model, model_path, tmp_path):
    atoms = crystal()
    atoms.write(tmp_path / "start.xyz")
    subprocess.run(
        [
            *(sys.executable, "-m", "equiv.integrations.ase_plugin", "run", "equiv", "start.xyz"),
            *("-p", f"model={model_path}", "-o", "result.json"),
        ],
        check=True,
        cwd=tmp_path,
        timeout=120,
    )
    result = read(tmp_path / "result.json")
    expected = read(tmp_path / "start.xyz")
    expected.calc = EquivCalculator(model)
    assert result.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(result.get_stress(), expected.get_stress(), atol=1e-12)
