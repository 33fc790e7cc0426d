"""Functions of pairs: kernels against their definitions, and derivatives of both."""

import pytest
import torch

from equiv.hamiltonian import pair_functions
from equiv.hamiltonian.coupling_paths import PathProduct
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.pair_kernels import pair_library
from equiv.hamiltonian.row_functions import Rows, add_rows
from equiv.testing import assert_gradient

NODES, BLOCKS = Degrees.up_to(2), Degrees((0, 1, 2), (1, 2))
PAIRS = torch.tensor([0, 2, 2, 0, 3]), torch.tensor([1, 1, 4, 4, 1])  # of five atoms
ALL, KEPT = PathProduct(NODES, NODES, BLOCKS), (0, 2, 4, 7, 11)
SIGNS = torch.tensor([1.0, -1, 1, -1, -1, -1, 1, 1, 1, 1, 1, 1], dtype=torch.float64)
CASES = {
    "product of atoms": (
        lambda a, b, w: pair_functions.product_of_atoms(
            ALL, a, b, PAIRS, (SIGNS[: a.shape[2]], SIGNS.flip(0)[: a.shape[2]]), w, KEPT
        ),
        lambda c: [(5, 9, c), (5, 9, c), (5, 5, c)],
    ),
    "spread": (
        lambda s, y, w: pair_functions.spread(
            Rows(NODES, s.shape[1]),
            BLOCKS.dim,
            torch.stack([SIGNS[: s.shape[1]]] * 3),
            PAIRS,
            s,
            y,
            w,
        ),
        lambda c: [(5, c), (5, 9), (5, 3, c)],
    ),
    "neighbors": (
        lambda s, y, w: pair_functions.neighbors(
            Rows(NODES, s.shape[1]), torch.tensor([1.0, -1, 1], dtype=s.dtype), PAIRS, s, y, w
        ),
        lambda c: [(5, c), (5, 9), (5, 3, c)],
    ),
    "tell": (
        lambda *given: pair_functions.tell(PAIRS, *given),
        lambda c: [(5, 3 * c), (5, 3 * c), (5, 3, c), (5, 3)],
    ),
    "path weights": (
        lambda h, rows, f: pair_functions.path_weights(h, rows, f, (0, 2, 3)),
        lambda c: [(5, 6), (4, 6, c), (3,)],
    ),
}


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.skipif(pair_library(torch.float64) is None, reason="no compiler")
@pytest.mark.parametrize("channels", [4, 12])
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_torch(name, channels, monkeypatch):
    function, shapes = CASES[name]

    def results():
        given = [normal(*s, seed=n).requires_grad_() for n, s in enumerate(shapes(channels))]
        out = function(*given)
        return [out, *torch.autograd.grad(out, given, normal(*out.shape, seed=9))]

    fast = results()
    assert "Backward" in str(fast[0].grad_fn)
    monkeypatch.setattr(pair_functions, "possible", lambda *tensors: False)
    slow = results()
    assert type(fast[0].grad_fn) is not type(slow[0].grad_fn)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_right_twice(name):
    function, shapes = CASES[name]
    tensors = [normal(*s, seed=n) for n, s in enumerate(shapes(2))]

    def of_all(flat):
        parts = flat.split([t.numel() for t in tensors])
        given = [p.view(t.shape) for p, t in zip(parts, tensors, strict=True)]
        given = [torch.cat([t, t], -1)[..., : t.shape[-1]] for t in given]  # not contiguous
        return function(*given)

    assert_gradient(of_all, torch.cat([t.flatten() for t in tensors]), tolerance=1e-8)


@pytest.mark.skipif(pair_library(torch.float64) is None, reason="no compiler")
def test_nothing_of_the_size_of_pairs_is_kept_but_weights():
    kept = []
    function, shapes = CASES["product of atoms"]
    given = [normal(*s).requires_grad_() for s in shapes(4)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape), lambda x: x):
        function(*given)
    assert sorted(kept) == sorted(t.shape for t in given)


def test_rows_are_added_in_place_and_gradients_are_those_of_a_sum():
    x, update = normal(6, 3, 2).requires_grad_(), normal(3, 3, 2, seed=1).requires_grad_()
    index, pull = torch.tensor([4, 0, 2]), normal(6, 3, 2, seed=2)
    given = 1 * x
    found = add_rows(given, index, update)
    assert found.data_ptr() == given.data_ptr()
    expected = x.index_add(0, index, update)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, update), pull),
        torch.autograd.grad(expected, (x, update), pull),
    )
