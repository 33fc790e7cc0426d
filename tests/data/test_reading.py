import numpy as np
from ase import Atoms
from ase.io import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiv.data import LabelChoice, UnitChoice, read_frames

# Names that extended XYZ reserves, or that the search for labels rightly takes for what they say.
names = st.from_regex(r"[A-Za-z][A-Za-z_]{0,8}", fullmatch=True).filter(
    lambda name: name.lower() not in ("lattice", "properties", "pbc", "config_weight", "numbers")
)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 5),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    energy_key=names,
    forces_key=names,
    length=st.sampled_from(["Ang", "Bohr", "nm"]),
)
@quick
def test_named_labels_come_back_whatever_the_names_and_cells(
    seed, size, pbc, energy_key, forces_key, length, tmp_path
):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2, 9, 3)) + rng.uniform(-1, 1, (3, 3))
    atoms = Atoms(rng.integers(1, 90, size), rng.uniform(-9, 9, (size, 3)), cell=cell, pbc=pbc)
    energy_key, forces_key = f"my{energy_key}", f"your{forces_key}"
    atoms.info[energy_key] = float(rng.normal(scale=1e4))
    atoms.arrays[forces_key] = rng.normal(scale=3, size=(size, 3))
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    choice = LabelChoice(energy=energy_key, forces=forces_key, stress=None)
    units = UnitChoice(length=length)
    (frame,) = read_frames(tmp_path / "a.xyz", labels=choice, units=units)
    factor = units.length_factor
    assert frame.energy == atoms.info[energy_key]
    assert frame.atoms.pbc.tolist() == list(pbc)
    assert frame.atoms.numbers.tolist() == atoms.numbers.tolist()
    np.testing.assert_allclose(frame.forces, atoms.arrays[forces_key] / factor, rtol=0, atol=1e-6)
    np.testing.assert_allclose(frame.atoms.positions, atoms.positions * factor, atol=1e-6)
    if any(pbc):
        np.testing.assert_allclose(frame.atoms.cell.array, cell * factor, rtol=1e-9)


def test_real_sets_are_read_without_complaint(shared_data):
    acac = read_frames(
        [shared_data / "acac/train_300K.xyz", shared_data / "acac/isolated_atoms.xyz"]
    )
    assert (len(acac), acac.elements, acac.labels.isolated) == (503, [1, 6, 8], 3)
    silicon = read_frames(shared_data / "mlearn/Si_train.xyz")
    assert sum(frame.stress is not None for frame in silicon) == 202
    ethanol = read_frames(
        shared_data / "rmd17/rmd17_ethanol_train_01.npz", units=UnitChoice(energy="kcal/mol")
    )
    forces = np.concatenate([frame.forces for frame in ethanol])
    assert 1.0 < np.sqrt(np.mean(forces**2)) < 1.4
