import subprocess
import sys

import pytest
from pydantic import ValidationError

from equiv.data.options import LabelChoice, UnitChoice


def test_options_are_validated_without_torch_or_ase():
    code = (
        "import sys; from equiv.data.options import UnitChoice; UnitChoice(energy='Ha'); "
        "print(sorted({'torch', 'ase', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_factors_follow_from_the_units():
    units = UnitChoice(energy="Ha", length="Bohr")
    assert units.forces_factor == pytest.approx(51.4220675)
    assert units.stress_factor == pytest.approx(183.631535)
    assert UnitChoice(stress="GPa").stress_factor == pytest.approx(1 / 160.2176634)
    assert UnitChoice(stress="GPa", stress_sign="compression_positive").stress_factor < 0
    assert UnitChoice().are_native
    assert not units.are_native


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"energy": "hartrees"}, "unit of energy"),
        ({"length": "inch"}, "unit of length"),
        ({"stress": "psi"}, "unit of stress"),
        ({"stress_sign": "minus"}, "compression_positive"),
        ({"enegy": "eV"}, "Extra inputs"),
    ],
)
def test_units_nobody_knows_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        UnitChoice.model_validate(values)


@pytest.mark.parametrize(
    "values", [{"energy": ""}, {"forces": 3}, {"allow_missing": ["dipole"]}, {"charge": "q"}]
)
def test_choices_that_mean_nothing_are_refused(values):
    with pytest.raises(ValidationError):
        LabelChoice.model_validate(values)
