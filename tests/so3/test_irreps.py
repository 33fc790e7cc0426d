import pytest
from e3nn import o3

from equiv.errors import EquivError
from equiv.so3 import Irreps, natural_irreps, parse_irreps, spherical_shape


def test_irreps_are_those_of_e3nn():
    assert Irreps is o3.Irreps
    assert parse_irreps("16x0e + 1o+2x2e") == o3.Irreps("16x0e+1x1o+2x2e")
    assert parse_irreps([(3, (1, -1))]) == o3.Irreps("3x1o")  # pyright: ignore
    assert parse_irreps("").dim == 0


def test_natural_irreps_alternate_in_parity():
    assert str(natural_irreps(3, 8)) == "8x0e+8x1o+8x2e+8x3o"


@pytest.mark.parametrize("wrong", ["8x1p", "0", "x0e", "1o 2e", "0e,1o"])
def test_an_unreadable_term_is_named(wrong):
    with pytest.raises(EquivError, match=rf"hidden: cannot read '{wrong}'.*such as '16x0e'"):
        parse_irreps(f"16x0e + {wrong}", "hidden")


def test_something_else_than_irreps_is_refused():
    with pytest.raises(EquivError, match="expected irreps such as '16x0e \\+ 8x1o', got 5"):
        parse_irreps(5)  # pyright: ignore


def test_shape_of_a_spherical_tensor():
    assert spherical_shape("4x0e+4x1o+4x2e") == (2, 4)
    assert spherical_shape("2x1o+4x0e+2x1o") == (1, 4)
    assert spherical_shape("1x0e+0x1o") == (0, 1)


@pytest.mark.parametrize(
    ("irreps", "words"),
    [
        ("2x0e+2x1e", "1e in .* has not the natural parity"),
        ("2x0e+3x1o", "3 channels of degree 1 but 2 of degree 0"),
        ("2x0e+2x2e", "0 channels of degree 1"),
        ("", "is empty"),
    ],
)
def test_irreps_that_no_spherical_tensor_holds_are_refused(irreps, words):
    with pytest.raises(EquivError, match=f"irreps_out: .*{words}"):
        spherical_shape(irreps, "irreps_out")
