"""What a user says about the labels and units of files; imports neither torch nor ase."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from equiv import units

LabelName = Literal["energy", "forces", "stress"]


def _energy(name: str) -> str:
    units.energy_in_ev(name)
    return name


def _length(name: str) -> str:
    units.length_in_angstrom(name)
    return name


def _stress(name: str | None) -> str | None:
    if name is not None:
        units.stress_in_ev_per_angstrom3(name)
    return name


class LabelChoice(BaseModel):
    """Which labels to read: `auto` finds the key, a name is taken as it is, null reads none.

    A name is a key of the structure's `info`, `arrays` or calculator results. `a|b` takes `a` where
    a structure has it and `b` elsewhere.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    energy: str | None = Field(default="auto", min_length=1, description="key of the energy")
    forces: str | None = Field(default="auto", min_length=1, description="key of the forces")
    stress: str | None = Field(
        default="auto",
        min_length=1,
        description="key of the stress or (if its name has `virial`) virials",
    )
    allow_missing: list[LabelName] = Field(
        default_factory=list, description="labels that some structures may lack"
    )

    def asked(self, name: str) -> str | None:
        """What was chosen for the label `name`."""
        return getattr(self, name)


class UnitChoice(BaseModel):
    """Units of the numbers in the files; forces are in energy / length."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    energy: Annotated[str, AfterValidator(_energy)] = Field(
        default="eV", description="eV, meV, Ha, Ry, kcal/mol, kJ/mol"
    )
    length: Annotated[str, AfterValidator(_length)] = Field(
        default="Ang", description="Ang, Bohr, nm"
    )
    stress: Annotated[str | None, AfterValidator(_stress)] = Field(
        default=None, description="GPa, kbar, eV/Ang^3, ...; null: energy / length^3"
    )
    stress_sign: Literal["ase", "compression_positive"] = Field(
        default="ase",
        description="ase: tension is positive; compression_positive: pressure is (VASP)",
    )

    @property
    def are_native(self) -> bool:
        """Whether nothing has to be converted."""
        return self == UnitChoice()

    @property
    def energy_factor(self) -> float:
        """One unit of energy in eV."""
        return units.energy_in_ev(self.energy)

    @property
    def length_factor(self) -> float:
        """One unit of length in Angstrom."""
        return units.length_in_angstrom(self.length)

    @property
    def forces_factor(self) -> float:
        """One unit of force in eV/Angstrom."""
        return self.energy_factor / self.length_factor

    @property
    def stress_factor(self) -> float:
        """One unit of stress in eV/Angstrom^3, with the sign that turns it into ASE's."""
        sign = 1.0 if self.stress_sign == "ase" else -1.0
        if self.stress is not None:
            return sign * units.stress_in_ev_per_angstrom3(self.stress)
        return sign * self.energy_factor / self.length_factor**3

    def __str__(self) -> str:
        stress = self.stress or f"{self.energy}/{self.length}^3"
        sign = "" if self.stress_sign == "ase" else ", compression positive"
        return f"{self.energy}, {self.energy}/{self.length}, {stress}{sign}"
