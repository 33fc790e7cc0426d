import pytest
import torch
from e3nn import o3

from equiv.errors import EquivError
from equiv.tensor_products import (
    Path,
    ReferenceTensorProduct,
    channelwise_paths,
    measured_coefficients,
    tensor_product,
)


def test_all_paths_come_in_the_order_of_e3nn():
    irreps = ("3x0e+2x1o+1e", "0e+2x1o", "4x0e+2x1o+1e+2e")
    ours = tensor_product(*irreps)
    theirs = o3.FullyConnectedTensorProduct(*irreps)
    assert [(p.in1, p.in2, p.out) for p in ours.instructions] == [
        (i.i_in1, i.i_in2, i.i_out) for i in theirs.instructions
    ]
    assert ours.weight_numel == theirs.weight_numel


def test_modes_keep_paths_whose_multiplicities_fit():
    product = tensor_product("4x0e+4x1o+2x1o", "0e+4x1o", "4x0e+4x1o", mode="uvu")
    assert [(p.in1, p.in2, p.out) for p in product.instructions] == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 1),
        (1, 1, 0),
    ]
    product = tensor_product("4x0e+2x1o", "4x0e+4x1o", "4x0e+4x1o", mode="uuu")
    assert [(p.in1, p.in2, p.out) for p in product.instructions] == [(0, 0, 0), (0, 1, 1)]


def test_channelwise_paths_give_every_path_its_own_output():
    irreps, paths = channelwise_paths("8x0e+4x1o", "0e+1o+2e", "0e+1o")
    assert str(irreps) == "8x0e+4x0e+8x1o+4x1o+4x1o"
    assert paths == [
        Path(0, 0, 0, "uvu"),
        Path(1, 1, 1, "uvu"),
        Path(0, 1, 2, "uvu"),
        Path(1, 0, 3, "uvu"),
        Path(1, 2, 4, "uvu"),
    ]
    product = tensor_product("8x0e+4x1o", "0e+1o+2e", irreps, instructions=paths)
    assert product.weight_numel == 8 + 4 + 8 + 4 + 4


@pytest.mark.parametrize("path_normalization", ["element", "path"])
def test_components_have_unit_variance_at_birth(path_normalization):
    g = torch.Generator().manual_seed(0)
    product = tensor_product(
        "16x0e+16x1o+16x2e",
        "4x0e+4x1o",
        "16x0e+16x1o+8x2e",
        path_normalization=path_normalization,
        internal_weights=False,
    )
    x = torch.randn(4000, product.irreps_in1.dim, generator=g)
    y = torch.randn(4000, product.irreps_in2.dim, generator=g)
    w = torch.randn(product.weight_numel, generator=g)
    for block, (_, ir) in zip(
        product(x, y, w).split([m.dim for m in product.irreps_out], -1),
        product.irreps_out,
        strict=True,
    ):
        assert block.var().item() == pytest.approx(1, abs=0.15), ir


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (Path(0, 0, 1, "uvw"), "0e x 0e does not contain 1o, only 0e"),
        (Path(0, 3, 0, "uvw"), "in2=3, but irreps_in2 = .* has 2 terms"),
        (Path(0, -1, 0, "uvw"), "in2=-1, but"),
        (Path(0, 0, 2, "uvu"), "mode uvu does not fit multiplicities 4 of 0e, 4 of 0e and 3 of 0e"),
        (Path(0, 0, 2, "uuu"), "mode uuu does not fit"),
        (Path(0, 0, 0, "uvw", has_weight=False), "mode uvw needs weights"),
        (Path(0, 0, 0, "uvw", path_weight=-1.0), "path_weight is a variance"),
        (Path(0, 0, 0, "uvx"), "expected one of uvw, uvu, uvv, uuw, uuu, uvuv, got 'uvx'"),  # pyright: ignore
    ],
)
def test_a_path_that_cannot_be_is_refused(path, words):
    with pytest.raises(EquivError, match=words):
        tensor_product("4x0e+4x1o", "4x0e+4x1o", "4x0e+4x1o+3x0e", instructions=[path])


def test_outputs_that_stay_empty_are_refused():
    with pytest.raises(
        EquivError, match=r"no path reaches 2x1e, 1x3o from .* contains 0e, 1o; drop"
    ):
        tensor_product("0e", "0e+1o", "0e+2x1e+1x3o")
    with pytest.raises(EquivError, match=r"no path reaches 3x1o .*uvu: those of irreps_in1"):
        tensor_product("4x0e", "1o", "3x1o", mode="uvu")


def test_a_path_without_channels_fills_nothing():
    with pytest.raises(EquivError, match="no path reaches 2x1o from"):
        tensor_product("2x0e+0x1o", "0e", "2x0e+2x1o")


def test_misspelt_choices_are_refused():
    with pytest.raises(EquivError, match="irrep_normalization: expected one of component, norm"):
        tensor_product("0e", "0e", "0e", irrep_normalization="components")  # pyright: ignore
    with pytest.raises(EquivError, match=r"mode: expected one of uvw, uvu, uvv, .*, got 'uv'"):
        tensor_product("0e", "0e", "0e", mode="uv")  # pyright: ignore
    with pytest.raises(EquivError, match="irreps_in2: cannot read '1x'"):
        ReferenceTensorProduct("0e", "1x", "0e")


@pytest.mark.parametrize("method", ["clebsch_gordan", "reference"])
@pytest.mark.parametrize(
    ("irreps", "mode"),
    [
        (("2x0e+3x1o", "2x0e+1x1e", "4x0e+2x1o+2x1e"), "uvw"),
        (("2x0e+3x1o", "2x0e+1x1e", "2x0e+3x1o+2x1e"), "uvu"),
        (("2x0e+2x1o", "2x0e+2x1o", "2x0e+2x1o+2x1e"), "uuu"),
    ],
)
def test_the_definition_is_what_is_computed(method, irreps, mode):
    product = tensor_product(*irreps, method=method, mode=mode).double()
    torch.testing.assert_close(
        measured_coefficients(product), product.dense_coefficients(), atol=1e-14, rtol=0
    )


def test_the_definition_of_paths_without_weights():
    paths = [Path(0, 0, 0, "uuu", False), Path(0, 1, 1, "uvu"), Path(1, 0, 1, "uuu", False)]
    product = tensor_product("2x0e+2x1o", "2x0e+2x1o", "2x0e+2x1o", instructions=paths).double()
    torch.testing.assert_close(
        measured_coefficients(product), product.dense_coefficients(), atol=1e-14, rtol=0
    )
