import torch

from equiv.nn.mlp import SILU_GAIN, RadialMLP


def test_gain_keeps_the_second_moment_of_a_normal_variable():
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-0.5 * z**2) / (2 * torch.pi) ** 0.5
    moment = torch.trapezoid((torch.nn.functional.silu(z) * SILU_GAIN) ** 2 * density, z)
    assert abs(moment - 1) < 1e-12


def test_zero_in_gives_zero_out():
    assert RadialMLP([4, 8, 3])(torch.zeros(2, 4)).abs().max() == 0


def test_outputs_have_unit_variance_at_birth():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mlp = RadialMLP([64, 256, 256, 256])
        out = mlp(torch.randn(512, 64))
    assert 0.8 < out.var() < 1.2
