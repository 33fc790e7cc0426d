"""The bridge to PySCF, with a model that knows the answer for one molecule."""

import os

import ase.build
import numpy as np
import pytest
import torch

from equiv.cli.main import main
from equiv.errors import EquivError, UnknownElementError
from equiv.hamiltonian import (
    BlockLayout,
    Blocks,
    HamiltonianSet,
    OrbitalBasis,
    Theory,
    blocks_from_matrices,
    read_hamiltonians,
)
from equiv.models import MACE, AbstractModel

gto = pytest.importorskip("pyscf.gto")

from equiv.integrations.hamiltonian_data import Plan, make_hamiltonians, read_structures  # noqa: E402
from equiv.integrations.label_workers import outcomes  # noqa: E402
from equiv.integrations.pyscf import GuessWarning, HamiltonianCalculator  # noqa: E402
from equiv.integrations.pyscf_labels import add_baseline, label, mean_field, molecule  # noqa: E402

THEORY = Theory("hf", 0)
NUMBERS = torch.tensor([8, 1, 1])
POSITIONS = torch.tensor(
    [[0.0, 0.0, 0.117], [0.1, 0.757, -0.469], [0.0, -0.8, -0.469]], dtype=torch.float64
)
BASIS = OrbitalBasis.from_pyscf("6-31g", ["O", "H"])


class Oracle(AbstractModel):
    """Returns the same correction whatever it is asked."""

    name = "oracle"

    def __init__(self, correction, baseline):
        super().__init__(BASIS.elements, None)
        self.basis, self.baseline, self.theory = BASIS, baseline, THEORY.to_dict()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        layout = BlockLayout.build(BASIS, NUMBERS)
        self.correction = blocks_from_matrices([correction], layout)

    def forward(self, batch) -> Blocks:
        return self.correction


@pytest.fixture(scope="module")
def exact():
    return label(NUMBERS, POSITIONS, BASIS, THEORY, baselines=("minao", "sap"), forces=True)


def calculator(exact, baseline="minao", noise=0.0):
    correction = exact.frame.difference(baseline)
    g = torch.Generator().manual_seed(0)
    wrong = torch.randn(correction.shape, generator=g, dtype=torch.float64)
    return HamiltonianCalculator(Oracle(correction + noise * (wrong + wrong.mT), baseline))


@pytest.fixture
def mole():
    return molecule(NUMBERS, POSITIONS, BASIS)


@pytest.fixture
def mf(mole):
    found = mean_field(mole, THEORY)
    found.verbose = 0
    return found


@pytest.mark.parametrize("baseline", ["minao", "sap", "none"])
def test_the_exact_hamiltonian_gives_the_exact_properties(exact, mole, baseline):
    found = calculator(exact, baseline).properties(mole)
    np.testing.assert_allclose(found.hamiltonian, exact.frame.hamiltonian, atol=1e-12)
    np.testing.assert_allclose(found.orbital_energies, exact.orbital_energies, atol=1e-6)
    assert found.energy == pytest.approx(exact.frame.energy, abs=1e-9)
    assert found.gap == pytest.approx(np.diff(exact.orbital_energies[4:6])[0], abs=1e-6)
    np.testing.assert_allclose(found.dipole, exact.dipole, atol=1e-6)
    np.testing.assert_allclose(found.forces, exact.forces, atol=1e-5)
    assert found.charges.sum() == pytest.approx(0, abs=1e-10)
    assert found.charges[0] < -0.5
    assert found.residual < 1e-5


def test_errors_of_the_hamiltonian_show_in_the_residual(exact, mole):
    good, bad = (calculator(exact, noise=x).properties(mole).residual for x in (1e-4, 1e-2))
    assert 20 * good < bad


def test_a_good_start_saves_iterations_and_is_not_computed_twice(exact, mf, mole):
    usual = mean_field(mole, THEORY)
    usual.kernel()
    guess = calculator(exact, noise=1e-5).initial_guess(mf)
    assert guess.accepted
    assert guess.residual < 1e-3 * guess.usual_residual
    builds = []
    original = type(mf).get_jk
    mf.get_jk = lambda *args, **kwargs: builds.append(1) or original(mf, *args, **kwargs)
    mf.kernel(guess)
    assert mf.e_tot == pytest.approx(usual.e_tot, abs=1e-8)
    assert mf.cycles <= 0.45 * usual.cycles
    assert len(builds) == mf.cycles + 1  # the last is PySCF's check after convergence
    assert "get_veff" not in vars(mf)


def test_a_bad_start_is_refused_and_says_so(exact, mf, mole):
    with pytest.warns(GuessWarning, match="not safely better, minao is used"):
        guess = calculator(exact, noise=0.1).initial_guess(mf)
    assert not guess.accepted
    np.testing.assert_array_equal(guess, mf.get_init_guess(mole, key="minao"))
    unguarded = calculator(exact, noise=0.1).initial_guess(mf, guard=False)
    assert np.abs(unguarded - guess).max() > 0.1


def test_an_empty_orbital_among_the_occupied_is_noticed(exact, mf):
    """A density with the wrong orbitals filled is nearly stationary: the residual does not tell."""
    found = calculator(exact).properties(mf.mol)
    order = np.arange(len(found.orbital_energies))
    order[[4, 5]] = 5, 4
    c, s = found.coefficients[:, order], found.overlap
    swapped = s @ c @ np.diag(found.orbital_energies) @ c.T @ s
    frame = exact.frame
    correction = torch.from_numpy(swapped) - frame.baselines["minao"]
    wrong = HamiltonianCalculator(Oracle(correction, "minao"))
    with pytest.warns(GuessWarning, match=r"1\.\d\d electron pairs change place"):
        assert not wrong.initial_guess(mf).accepted


def test_scf_runs_from_the_prediction(exact, mf):
    assert calculator(exact).scf(mf) is mf
    assert mf.converged
    assert mf.e_tot == pytest.approx(exact.frame.energy, abs=1e-8)


def test_the_functional_may_differ(exact, mole):
    mf = mean_field(mole, Theory("lda", 0))
    mf.xc, mf.grids.level, mf.verbose = "0.97*hf + 0.03*lda,", 0, 0
    mf.kernel(calculator(exact).initial_guess(mf))
    assert mf.converged


def test_molecules_that_the_model_does_not_know_are_refused(exact, mf):
    ours = calculator(exact)
    with pytest.raises(UnknownElementError, match="He: the orbital basis 6-31g"):
        ours.hamiltonian(gto.M(atom="He 0 0 0", basis="6-31g", verbose=0))
    water = "O 0 0 0; H 0 0.7 -0.5; H 0 -0.7 -0.5"
    with pytest.raises(EquivError, match=r"build it with basis='6-31g'"):
        ours.hamiltonian(gto.M(atom=water, basis="sto-3g", verbose=0))
    with pytest.raises(EquivError, match="Cartesian"):
        ours.hamiltonian(gto.M(atom=water, basis="6-31g", cart=True, verbose=0))
    with pytest.raises(EquivError, match="9 electrons with spin 1"):
        ours.hamiltonian(gto.M(atom=water, basis="6-31g", charge=1, spin=1, verbose=0))
    with pytest.raises(EquivError, match=r"restricted closed-shell .* got UHF"):
        ours.initial_guess(mf.to_uhf())


def test_potentials_are_no_hamiltonian_models():
    potential = MACE(
        elements=["H"], cutoff=3.0, channels=2, layers=1, num_radial=2, radial_hidden=[2],
        correlation=1, edge_degree=1, reference_energies={"H": 0.0}, mean_neighbors=1.0,
    )  # fmt: skip
    with pytest.raises(EquivError, match="a Hamiltonian model is needed, got a mace model"):
        HamiltonianCalculator(potential)


def test_unknown_functionals_are_named(mole):
    with pytest.raises(EquivError, match="functional 'b4lyp'"):
        mean_field(mole, Theory("b4lyp"))


def test_a_missing_baseline_can_be_added(exact):
    bare = label(NUMBERS, POSITIONS, BASIS, THEORY, baselines=()).frame
    assert not bare.baselines
    data = add_baseline(HamiltonianSet(BASIS, THEORY, (bare,)), "sap")
    torch.testing.assert_close(data[0].baselines["sap"], exact.frame.baselines["sap"])


# making sets


def structures():
    water = ase.build.molecule("H2O")
    stretched = water.copy()
    stretched.positions[1] *= 1.1
    return [water, stretched, ase.build.molecule("H2")]


PLAN = Plan("sto-3g", THEORY, forces=True)


def test_an_interrupted_set_is_the_same_as_one_in_a_piece(tmp_path):
    notes = []
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    whole = make_hamiltonians(one, PLAN, structures())
    assert make_hamiltonians(two, PLAN, structures(), stop=lambda: True) is None
    assert not two.exists()
    resumed = make_hamiltonians(
        two, PLAN, structures(), labelled=lambda count, note: notes.append((count, note))
    )
    assert notes[0] == (1, "resumed")
    assert sum(count for count, _ in notes) == 3
    assert whole.fingerprint == resumed.fingerprint == read_hamiltonians(two).fingerprint
    assert not list(tmp_path.glob("*.unfinished"))
    with np.load(two) as stored:
        assert stored["forces"].shape == (8, 3)
    assert [len(atoms) for atoms in read_structures(two)] == [3, 3, 2]


def test_two_workers_make_the_same_set_and_finish_what_they_began(tmp_path):
    plan = Plan("sto-3g", Theory("pbe", 0))
    water, geometries = ase.build.molecule("H2O"), []
    for number in range(12):
        geometries.append(water.copy())
        geometries[-1].rattle(0.05, seed=number)
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    make_hamiltonians(one, plan, geometries)
    done, again = [], []
    stopped = make_hamiltonians(
        two, plan, geometries, workers=2,
        stop=lambda: len(done) >= 8, labelled=lambda count, note: done.append(count),
    )  # fmt: skip
    assert stopped is None
    make_hamiltonians(two, plan, geometries, labelled=lambda count, note: again.append(count))
    assert again[0] == sum(done) in (8, 9)
    with np.load(one) as first, np.load(two) as second:
        assert set(first.files) == set(second.files)
        for name in set(first.files) - {"provenance"}:
            assert first[name].tobytes() == second[name].tobytes(), name


class Deadly:
    """Ends the process that receives it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_the_death_of_a_worker_is_reported():
    with pytest.raises(EquivError, match="a worker process died"):
        list(outcomes([Deadly(), Deadly()], 2, lambda: False))


def test_unfinished_work_of_other_settings_is_not_mixed_in(tmp_path):
    make_hamiltonians(tmp_path / "set.npz", PLAN, structures(), stop=lambda: True)
    other = Plan("6-31g", THEORY)
    with pytest.raises(EquivError, match="unfinished work of other settings"):
        make_hamiltonians(tmp_path / "set.npz", other, structures())


def test_sampled_geometries_are_reproducible(tmp_path):
    pytest.importorskip("tblite")
    from equiv.integrations.xtb_sampling import Sampling, sample_geometries

    sampling = Sampling(count=4, replicas=2, stride=5, equilibration=5)
    once, replicas = sample_geometries([ase.build.molecule("H2O")], sampling)
    again, _ = sample_geometries([ase.build.molecule("H2O")], sampling)
    assert sorted(replicas) == [0, 0, 1, 1]
    for one, two in zip(once, again, strict=True):
        np.testing.assert_allclose(one.positions, two.positions, atol=1e-8)
        assert np.abs(one.get_center_of_mass()).max() < 1e-10
    assert np.abs(once[0].positions - once[1].positions).max() > 0.05


def test_the_command_line_makes_a_set(tmp_path, capsys):
    start, out = tmp_path / "start.xyz", tmp_path / "set.npz"
    structures()[0].write(start)
    command = ["data", "make", "hamiltonians", str(start)]
    assert main([*command, "-o", str(out), "--as-is", "--basis", "sto-3g", "--xc", "hf"]) == 0
    assert "1 molecules (H2O), sto-3g: H 1s, O 2s1p, hf" in capsys.readouterr().out
    assert main(command) == 2
    assert "name the archive to write" in capsys.readouterr().err
    assert main(["data", "make", "water.xyz"]) == 2
    assert "'hamiltonians', 'nbody', got 'water.xyz'" in capsys.readouterr().err
