import json

import numpy as np
import pytest
import torch

from equiv.errors import DataError
from equiv.hamiltonian import (
    Batcher,
    HamiltonianFrame,
    HamiltonianSet,
    OrbitalBasis,
    Theory,
    matrices_from_blocks,
    molecules,
    read_hamiltonians,
    write_hamiltonians,
)

BASIS = OrbitalBasis("small", {1: (0, 1), 8: (0, 0, 1)})


def frame(numbers, seed=0):
    g = torch.Generator().manual_seed(seed)
    n = BASIS.nao(numbers)
    h, s, b = (torch.randn(n, n, generator=g, dtype=torch.float64) for _ in range(3))
    positions = torch.randn(len(numbers), 3, generator=g, dtype=torch.float64)
    return HamiltonianFrame(
        torch.tensor(numbers), positions, h + h.mT, s + s.mT, {"minao": b + b.mT}, energy=-1.5
    )


def data(*molecules):
    frames = [frame(numbers, seed) for seed, numbers in enumerate(molecules)]
    return HamiltonianSet(BASIS, Theory("pbe", 4), tuple(frames))


@pytest.mark.parametrize(
    "written", [data([8, 1, 1], [8, 1, 1]), data([8, 1, 1], [1, 1], [8])], ids=["one", "several"]
)
def test_what_is_written_is_read(tmp_path, written):
    write_hamiltonians(tmp_path / "set.npz", written, provenance={"by": "hand"})
    read = read_hamiltonians(tmp_path / "set.npz")
    assert (read.basis, read.theory, len(read)) == (BASIS, Theory("pbe", 4), len(written))
    for one, two in zip(read, written, strict=True):
        assert torch.equal(one.numbers, two.numbers)
        assert torch.equal(one.positions, two.positions)
        assert torch.equal(one.hamiltonian, two.hamiltonian)
        assert torch.equal(one.overlap, two.overlap)
        assert torch.equal(one.baselines["minao"], two.baselines["minao"])
        assert one.energy == -1.5
    assert read.fingerprint == written.fingerprint
    assert read[:1].fingerprint != written.fingerprint


def test_real_sets_are_read(shared_data):
    water = read_hamiltonians(shared_data / "hamiltonian" / "water_b3lyp_def2svp.npz")
    assert water.describe().startswith("1000 molecules (H2O), def2-svp: H 2s1p, O 3s2p1d, b3lyp5")
    assert water[0].occupied(water.basis) == 5
    error = (water[0].hamiltonian - water[0].baselines["minao"]).abs().mean()
    assert 0.015 < error < 0.021  # the start of the calculation is 18 mEh away
    path = shared_data / "hamiltonian_sto3g" / "qm7_sto3g_train.npz"
    with pytest.raises(DataError, match="does not say which orbitals"):
        read_hamiltonians(path)
    basis = OrbitalBasis("sto-3g", {1: (0,), 6: (0, 0, 1), 7: (0, 0, 1), 8: (0, 0, 1)})
    assert len({f.formula for f in read_hamiltonians(path, basis=basis)}) == 48


def test_batches_hold_what_is_to_be_learned():
    several = data([8, 1, 1], [1, 1], [8])
    batcher = Batcher(BASIS, "minao")
    for _ in range(2):  # the second time the layout is known already
        batch = batcher.collate(batcher.samples(several))
        assert batch.batch.tolist() == [0, 0, 0, 1, 1, 2]
        for delta, one in zip(
            matrices_from_blocks(batch.target, batch.layout), several, strict=True
        ):
            torch.testing.assert_close(
                delta, one.hamiltonian - one.baselines["minao"], atol=1e-13, rtol=0
            )


def test_a_missing_baseline_says_how_to_get_it():
    with pytest.raises(DataError, match=r"no baseline 'sap' \(there is none, minao\)"):
        Batcher(BASIS, "sap").samples(data([8]))


def test_open_shells_are_refused():
    with pytest.raises(DataError, match="9 electrons are no closed shell"):
        frame([8, 1]).occupied(BASIS)


def test_molecules_without_labels_make_a_batch():
    one = frame([8, 1, 1])
    batch = molecules(BASIS, [one.numbers, one.numbers], [one.positions, one.positions])
    assert batch.num_graphs == 2
    assert batch.target is None


def spoiled(path, **changes):
    written = data([8, 1, 1], [8, 1, 1])
    write_hamiltonians(path, written, provenance={})
    with np.load(path) as stored:
        arrays = {**stored, **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hamiltonian": None}, r"needs hamiltonian \(hamiltonian or H or fock or Fock\)"),
        ({"hamiltonian": np.zeros((2, 4, 4))}, "should be 13 x 13 in the basis small"),
        ({"hamiltonian": np.full((2, 13, 13), np.nan)}, "holds NaN"),
        ({"hamiltonian": np.triu(np.ones((2, 13, 13)))}, "differs from its transpose by 1"),
        ({"hamiltonian": np.zeros(7)}, "one matrix for each of 2 frames"),
        (
            {"converged": np.array([True, False])},
            r"1 of 2 calculations did not converge \(frames 1",
        ),
        ({"positions": np.zeros((2, 2, 3))}, "positions should have shape"),
        ({"atomic_numbers": np.array([8, 1, 0])}, "atomic numbers should be 1 to 118"),
        ({"basis": np.array("{")}, "basis is no JSON"),
        ({"n_atoms": np.array([3, 4])}, "n_atoms sums to 7"),
        ({"energy": np.zeros(3)}, "3 energies for 2 frames"),
    ],
)
def test_damaged_sets_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_hamiltonians(spoiled(tmp_path / "set.npz", **changes))


def test_sets_of_different_theory_do_not_mix():
    one = data([8])
    assert len(one + one) == 2
    with pytest.raises(DataError, match="cannot mix Hamiltonians of pbe"):
        one + HamiltonianSet(BASIS, Theory("b3lyp", 4), one.frames)
    other = OrbitalBasis("other", {8: (0, 1)})
    with pytest.raises(DataError, match="O has one basis in small"):
        one + HamiltonianSet(other, Theory("pbe", 4), ())


def test_shells_in_the_file_make_the_basis(tmp_path):
    path = spoiled(
        tmp_path / "set.npz",
        basis=None,
        shell_l=np.array([0, 0, 1, 0, 1, 0, 1]),
        shell_atom=np.array([0, 0, 0, 1, 1, 2, 2]),
        theory=None,
        provenance=np.array(json.dumps({"basis": "small", "xc": "lda", "grid_level": 2})),
    )
    read = read_hamiltonians(path)
    assert (read.basis, read.theory) == (BASIS, Theory("lda", 2))
