import io

from rich.console import Console

from equiv.train.console import RunConsole
from equiv.train.quantity import Quantity

MANY = tuple(
    Quantity(f"q{i}", "q", f"a quantity with number {i}", "eV", "meV", 1000.0) for i in range(8)
)
SIMILAR = Quantity("s", "s", "similarity", "", "%", 100.0, statistics=("mean",), headline="mean")
ERRORS = {
    split: {
        "frames": 7,
        **{quantity.name: {"mae": 0.001 * size, "rmse": 0.002 * size} for quantity in MANY},
        "s": {"mean": 0.99974},
    }
    for split, size in (("train", 1.0), ("test", 2.0))
}


def shown(width: int) -> list[str]:
    screen = Console(width=width, file=io.StringIO())
    RunConsole(screen).errors("errors", ERRORS, (*MANY, SIMILAR))
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def test_a_wide_screen_has_a_row_for_every_split():
    lines = shown(400)
    (line,) = (line for line in lines if line.split()[:1] == ["test"])
    assert line.split()[1] == "7"
    assert line.count("2.00 / 4.00") == len(MANY)


def test_a_narrow_screen_has_a_row_for_every_quantity_and_cuts_nothing():
    lines = shown(90)
    (line,) = (line for line in lines if "number 3" in line)
    assert " ".join(line.split("3", 1)[1].split()) == "MAE / RMSE meV 1.00 / 2.00 2.00 / 4.00"
    assert not any("…" in line for line in lines)


def test_a_similarity_near_one_keeps_the_digits_that_differ():
    assert any("99.974" in line for line in shown(90))
