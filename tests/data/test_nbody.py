import numpy as np

from equiv.data import nbody
from equiv.data.nbody import SEED, Forces, Trajectories, draw, fingerprint, make_nbody, simulate

# The first particle of the first training simulation at the two times.
START = [2.9891163172, 1.7693701204, -1.1712942795]
TARGET = [4.1654998368, 2.1913091384, -1.3826188024]


def test_the_first_draws_are_the_published_ones():
    charges, positions, velocities = draw(np.random.RandomState(SEED), 2)
    assert charges[0].tolist() == [-1, 1, -1, -1, -1]
    np.testing.assert_allclose(
        positions[0, 0], [0.40609421, 0.87809903, -0.47138332, 0.04119692, -0.67025794], atol=5e-9
    )
    np.testing.assert_allclose(np.linalg.norm(velocities, axis=1), 0.5, rtol=1e-14)


def test_trajectories_are_the_published_ones():
    found = simulate(*draw(np.random.RandomState(SEED), 4))
    assert found.positions.shape == found.targets.shape == (4, 5, 3)
    np.testing.assert_allclose(found.positions[0, 0], START, rtol=1e-7)
    np.testing.assert_allclose(found.targets[0, 0], TARGET, rtol=1e-6)


def test_forces_are_coulombs_law_without_softening_and_with_a_limit():
    random = np.random.default_rng(0)
    x, q = random.normal(size=(3, 5, 7)), random.choice([-1.0, 1.0], size=(7, 5))
    x[:, 1, 0] = x[:, 0, 0] + 1e-2
    found = Forces(q)(x)
    for s in range(7):
        for i in range(5):
            force = sum(
                q[s, i] * q[s, j] * (x[:, i, s] - x[:, j, s])
                / np.linalg.norm(x[:, i, s] - x[:, j, s]) ** 3
                for j in range(5)
                if j != i
            )  # fmt: skip
            np.testing.assert_allclose(found[:, i, s], np.clip(force, -100, 100), rtol=1e-9)


def test_chunks_do_not_matter(monkeypatch):
    initial = draw(np.random.RandomState(1), 3)
    monkeypatch.setattr(nbody, "START_STEP", 5)
    monkeypatch.setattr(nbody, "TARGET_STEP", 12)
    whole = simulate(*initial)
    monkeypatch.setattr(nbody, "CHUNK", 2)
    parts = simulate(*initial)
    assert fingerprint(whole) == fingerprint(parts)
    assert (whole.velocities == parts.velocities).all()


def test_files_that_are_there_are_kept_and_damaged_ones_made_again(monkeypatch, tmp_path):
    monkeypatch.setattr(nbody, "SIZES", {"train": 4, "test": 3})
    monkeypatch.setattr(nbody, "TRAINED_ON", 2)
    monkeypatch.setattr(nbody, "START_STEP", 3)
    monkeypatch.setattr(nbody, "TARGET_STEP", 6)
    first = make_nbody(tmp_path)
    monkeypatch.setattr(nbody, "PUBLISHED", {name: fingerprint(t) for name, t in first.items()})
    (tmp_path / "test.npz").write_bytes(b"half a file")
    before = (tmp_path / "train.npz").stat().st_mtime_ns
    done = []
    again = make_nbody(tmp_path, done.append)
    assert done == [2, 2]
    assert (tmp_path / "train.npz").stat().st_mtime_ns == before
    with np.load(tmp_path / "test.npz") as stored:
        assert fingerprint(Trajectories(**stored)) == fingerprint(again["test"])
    assert fingerprint(first["test"]) == fingerprint(again["test"])
