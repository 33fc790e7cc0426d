"""Messages between atoms: the kernel against its definition, any selection, any channels."""

import pytest
import torch

from equiv.hamiltonian import messages as module
from equiv.hamiltonian.coupling_paths import PathProduct
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.message_kernel import message_library
from equiv.hamiltonian.messages import Messages
from equiv.hamiltonian.pair_functions import path_weights
from equiv.so3 import spherical_harmonics
from equiv.testing import assert_gradient

NODES = Degrees.up_to(2)
MESSAGES = Messages(PathProduct(NODES, NODES, NODES)).double()
ALL = tuple(range(len(MESSAGES.product.paths)))
SOME = (0, 3, 4, 7, 10)
PAIRS = torch.tensor([0, 2, 2, 0, 3]), torch.tensor([1, 1, 4, 4, 1])  # of six atoms; 5 is alone


def tensors(channels, selection):
    """Features, harmonics; hidden numbers, rows and factors of the weights."""
    shapes = [(6, 9, channels), (5, 9), (5, 3), (len(ALL), 3, channels), (len(selection),)]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]


def results(given, selection, wanted=(0, 1, 2, 3, 4)):
    given = [t.clone().requires_grad_(n in wanted) for n, t in enumerate(given)]
    out = MESSAGES(given[0], given[1], PAIRS, *given[2:], selection)
    generator = torch.Generator().manual_seed(9)
    pull = torch.randn(*out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return out, *torch.autograd.grad(out, [given[n] for n in wanted], pull)


@pytest.mark.skipif(message_library(torch.float64) is None, reason="no compiler")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("selection", [ALL, SOME, SOME[:1]])
@pytest.mark.parametrize("channels", [1, 4, 12, 35])  # 35: registers of every width
@pytest.mark.parametrize("wanted", [(0, 1, 2, 3, 4), (0, 2, 3, 4)])
def test_the_kernel_agrees_with_torch(wanted, channels, selection, threads, monkeypatch):
    given, before = tensors(channels, selection), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        fast = results(given, selection, wanted)
    finally:
        torch.set_num_threads(before)
    assert "_Messages" in str(fast[0].grad_fn)
    monkeypatch.setattr(module, "possible", lambda *tensors: False)
    slow = results(given, selection, wanted)
    assert "_Messages" not in str(slow[0].grad_fn)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.skipif(message_library(torch.float32) is None, reason="no compiler")
def test_single_precision_is_as_good_as_it_can_be():
    given = tensors(35, ALL)
    exact = results(given, ALL)
    rounded = results([t.float() for t in given], ALL)
    for one, other in zip(rounded, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("selection", [ALL, SOME])
def test_derivatives_are_right_twice(selection):
    given = tensors(2, selection)

    def of_all(flat):
        parts = flat.split([t.numel() for t in given])
        given_ = [p.view(t.shape) for p, t in zip(parts, given, strict=True)]
        x, y, *weights = [torch.cat([t, t], -1)[..., : t.shape[-1]] for t in given_]  # with gaps
        return MESSAGES(x, y, PAIRS, *weights, selection)

    assert_gradient(of_all, torch.cat([t.flatten() for t in given]), tolerance=1e-8)


def test_messages_are_the_sum_over_both_ways_of_every_pair():
    """Written out: harmonics of the direction to the one that speaks."""
    x, _, *of_weights = tensors(4, ALL)
    w = path_weights(*of_weights, ALL)
    positions = torch.randn(6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ways = [*zip(*PAIRS, range(5), strict=True)]
    ways += [(j, i, n) for i, j, n in ways]
    expected = torch.zeros_like(x)
    for hears, speaks, n in ways:
        y = spherical_harmonics(2, (positions[speaks] - positions[hears])[None]).unsqueeze(-1)
        expected[hears] += MESSAGES.product(x[speaks][None], y, w[n][None], ALL)[0]
    y = spherical_harmonics(2, positions[PAIRS[1]] - positions[PAIRS[0]])
    torch.testing.assert_close(MESSAGES(x, y, PAIRS, *of_weights, ALL), expected)


def test_without_pairs_nothing_is_heard():
    none = torch.zeros(0, dtype=torch.long)
    x, y, hidden, *weights = tensors(4, ALL)
    x.requires_grad_()
    heard = MESSAGES(x, y[:0], (none, none), hidden[:0], *weights, ALL)
    assert (heard == 0).all()
    assert heard.shape == x.shape
    heard.sum().backward()
    assert (x.grad == 0).all()


@pytest.mark.skipif(message_library(torch.float64) is None, reason="no compiler")
def test_weights_are_not_kept():
    given, kept = [t.requires_grad_() for t in tensors(4, SOME)], []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape), lambda x: x):
        MESSAGES(given[0], given[1], PAIRS, *given[2:], SOME)
    assert sorted(kept) == sorted(t.shape for t in given)
