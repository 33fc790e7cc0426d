import numpy as np
import pytest

from equiv.errors import EquivError
from equiv.long_range.canonical import CanonicalTensor, canonical_potential
from equiv.long_range.gaussian_sums import inverse_power
from equiv.long_range.tucker import TuckerTensor, apply_along_axes, hooi, hosvd, rhosvd


def random_canonical(rank, shape=(7, 8, 9), seed=0):
    random = np.random.default_rng(seed)
    factors = tuple(random.standard_normal((n, rank)) for n in shape)
    return CanonicalTensor(random.standard_normal(rank), factors)


def newton(n=24):
    x = (2 * np.arange(n) + 1) / n - 1
    return canonical_potential(inverse_power(1, 1e-8, 1 / n, 1.8), [x] * 3, [[0, 0, 0]], [1.0])


def test_canonical_operations_agree_with_the_full_tensor():
    a, b = random_canonical(3), random_canonical(4, seed=1)
    np.testing.assert_allclose(
        a.full(), np.einsum("k,ak,bk,ck->abc", a.weights, *a.factors), atol=1e-13
    )
    np.testing.assert_allclose((a + b).full(), a.full() + b.full(), atol=1e-13)
    np.testing.assert_allclose((a - 2.0 * b).full(), a.full() - 2 * b.full(), atol=1e-13)
    assert a.norm() == pytest.approx(np.linalg.norm(a.full()))
    assert a.inner(b) == pytest.approx((a.full() * b.full()).sum())
    np.testing.assert_allclose(a.normalized().full(), a.full(), atol=1e-13)
    index = np.array([[[0, 1, 2], [6, 7, 8]]])
    np.testing.assert_allclose(a.evaluate(index), a.full()[[[0, 6]], [[1, 7]], [[2, 8]]])


def test_canonical_potential_is_the_sum_over_the_charges():
    kernel = inverse_power(1, 1e-8, 0.05, 4.0)
    random = np.random.default_rng(3)
    centers, charges = random.uniform(-1, 1, (5, 3)), random.standard_normal(5)
    grid = [np.linspace(1.1, 1.5, n) for n in (3, 4, 5)]
    points = np.stack(np.meshgrid(*grid, indexing="ij"), -1)
    r = np.linalg.norm(points[..., None, :] - centers, axis=-1)
    np.testing.assert_allclose(
        canonical_potential(kernel, grid, centers, charges).full(), (charges / r).sum(-1), rtol=1e-7
    )


def test_tucker_operations_agree_with_the_full_tensor():
    a = hosvd(random_canonical(3).full(), 0.0)
    b = hosvd(random_canonical(4, seed=1).full(), 1e-10)
    assert b.ranks == (4, 4, 4)
    np.testing.assert_allclose((a + b).full(), a.full() + b.full(), atol=1e-12)
    np.testing.assert_allclose((a - 0.5 * b).full(), a.full() - 0.5 * b.full(), atol=1e-12)
    assert (a + b).norm() == pytest.approx(np.linalg.norm(a.full() + b.full()))
    assert (b + b).rounded(1e-10).ranks == (4, 4, 4)
    np.testing.assert_allclose(b.canonical().full(), b.full(), atol=1e-12)
    assert b.canonical().rank == 16
    index = np.array([[0, 1, 2], [6, 7, 8]])
    np.testing.assert_allclose(b.evaluate(index), b.full()[tuple(index.T)])


@pytest.mark.parametrize("decompose", [lambda c, e: hosvd(c.full(), e), rhosvd])
@pytest.mark.parametrize("error", [1e-1, 1e-3, 1e-6])
def test_truncation_keeps_its_promise(decompose, error):
    tensor = newton()
    tucker = decompose(tensor, error)
    assert np.linalg.norm(tucker.full() - tensor.full()) <= error
    for v in tucker.factors:
        np.testing.assert_allclose(v.T @ v, np.eye(v.shape[1]), atol=1e-12)


def test_hosvd_is_within_root_three_of_the_best_and_als_improves_it():
    tensor = np.random.default_rng(0).standard_normal((8, 8, 8))
    start = hosvd(tensor, 0.75 * np.linalg.norm(tensor))
    best = hooi(tensor, start, sweeps=50)
    before, after = (np.linalg.norm(t.full() - tensor) for t in (start, best))
    assert best.ranks == start.ranks
    assert after < 0.999 * before
    assert before <= np.sqrt(3) * after
    assert after**2 == pytest.approx(np.linalg.norm(tensor) ** 2 - best.norm() ** 2)


def test_als_hardly_changes_what_hosvd_finds_for_a_potential():
    tensor = newton().full()
    start = hosvd(tensor, 1e-4)
    gain = np.linalg.norm(hooi(tensor, start).full() - tensor)
    assert gain == pytest.approx(np.linalg.norm(start.full() - tensor), rel=0.05)


def test_apply_along_axes_is_the_mode_product():
    random = np.random.default_rng(1)
    tensor = random.standard_normal((2, 3, 4))
    matrices = [random.standard_normal((5, n)) for n in (2, 3, 4)]
    np.testing.assert_allclose(
        apply_along_axes(tensor, matrices), np.einsum("abc,ia,jb,kc->ijk", tensor, *matrices)
    )


def test_shapes_that_do_not_fit_are_explained():
    a = random_canonical(2)
    with pytest.raises(EquivError, match="expected matrices with 3 columns"):
        CanonicalTensor(np.ones(3), a.factors)
    with pytest.raises(EquivError, match=r"cannot add tensors of shapes \(7, 8, 9\)"):
        a + random_canonical(2, (7, 8, 10))
    with pytest.raises(EquivError, match="the shape of the core"):
        TuckerTensor(np.ones((1, 1, 1)), a.factors)
