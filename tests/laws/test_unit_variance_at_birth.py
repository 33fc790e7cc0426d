"""Layers that promise it neither blow up nor damp what passes through them."""

import pytest
import torch

from equiv.nn import LinearReadout, NonlinearReadout, RadialMLP, SphericalLinear
from equiv.tensor_products import ClebschGordanTensorProduct

ROWS = 40
FLAT = "16x0e + 16x1o + 16x2e"
# Wide, so that the variance of one birth is near its mean.
PROMISES = {
    "RadialMLP": (lambda: RadialMLP([64, 64, 64, 64]), [(ROWS, 64)]),
    "SphericalLinear": (lambda: SphericalLinear(64, 64, 2), [(ROWS, 9, 64)]),
    "LinearReadout": (lambda: LinearReadout(512), [(ROWS, 512)]),
    "NonlinearReadout": (lambda: NonlinearReadout(128, 512), [(ROWS, 128)]),
    "tensor product uvw": (
        lambda: ClebschGordanTensorProduct(FLAT, FLAT, FLAT, mode="uvw"),
        [(ROWS, 144), (ROWS, 144)],
    ),
    "tensor product uvu": (
        lambda: ClebschGordanTensorProduct(FLAT, "8x0e + 8x1o", FLAT, mode="uvu"),
        [(ROWS, 144), (ROWS, 32)],
    ),
    "tensor product uuu": (
        lambda: ClebschGordanTensorProduct(FLAT, FLAT, FLAT, mode="uuu"),
        [(ROWS, 144), (ROWS, 144)],
    ),
}


@pytest.mark.parametrize("name", PROMISES)
def test_unit_variance_in_gives_unit_variance_out(name):
    build, shapes = PROMISES[name]
    # Not the seed of any birth, or inputs would repeat the weights.
    generator = torch.Generator().manual_seed(10**6)
    squares = []
    for seed in range(150):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = build()
        with torch.no_grad():
            y = layer(*(torch.randn(shape, generator=generator) for shape in shapes))
        squares.append(y.square().mean())
    assert torch.stack(squares).mean().item() == pytest.approx(1.0, abs=0.1)
