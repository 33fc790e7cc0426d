r"""Which key of a file holds which label: every candidate is counted, and a doubt is an error.

Energies are numbers of a structure, forces triples of its atoms, stresses six or nine numbers of it
(Voigt order xx yy zz yz xz xy). Virials :math:`W` become stress by :math:`\sigma = -W/V`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from equiv.data.files import UNCONVERTED, RawFrame
from equiv.data.options import LabelChoice, UnitChoice
from equiv.data.report import Finding, find, short_names

if TYPE_CHECKING:
    from rich.console import RenderableType

LABELS = ("energy", "forces", "stress")
SHOWN = 20  # elements named one by one

# Energies that are not the potential energy of the whole structure.
_OTHER_ENERGIES = re.compile(
    r"unit|kinetic|per_?atom|formation|hull|zero|zpe|std|var|uncert|error|gap|fermi|nuclear|repulsion|"
    r"dispersion|correct|cut|homo|lumo|atomi[sz]ation|interaction|binding|cohesive|adsorption|"
    r"solvation|monomer|barrier|strain|tol(erance)?$|thresh|conver"
)
_ENERGY = re.compile(r"energy|toten|(^|_)e(_?tot|_?total|_?dft|0)?$")
_FORCES = re.compile(r"force(?!_?(const|unit|std|err|var))|(^|_)f$")
_STRESS = re.compile(r"stress(?!es|_?(unit|std|err|var))|virials?(?!_?(unit|std|err))")
_NAMED = {"energy": _ENERGY, "forces": _FORCES, "stress": _STRESS}


@dataclass
class Candidate:
    """A key that may hold a label.

    Attributes:
        key: its name; `info:` or `results:` in front where a name alone would be ambiguous.
        frames: positions of the structures that have it.
        low: smallest value in units of the file; for forces and stress of the norm or component.
        high: largest value.
        count: how many of them should have it.
    """

    key: str
    frames: list[int] = field(default_factory=list)
    count: int = 0
    low: float = np.inf
    high: float = -np.inf

    def add(self, index: int, value: np.ndarray) -> None:
        """Count one more structure."""
        self.frames.append(index)
        finite = value[np.isfinite(value)]
        if finite.size:
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))

    def __str__(self) -> str:
        if not np.isfinite(self.low):
            return f"{self.key!r} in {len(self.frames)} structures, no finite value"
        return f"{self.key!r} in {len(self.frames)} structures, {self.low:.6g} to {self.high:.6g}"


@dataclass
class LabelFound:
    """What became of one label.

    Attributes:
        name: `energy`, `forces` or `stress`.
        key: the key it is read from; None if it is not read.
        present: how many structures have it.
        wanted: how many structures should have it (free atoms need no forces, molecules no stress).
        candidates: every key that could have been meant.
    """

    name: str
    key: str | None
    present: int
    wanted: int
    candidates: list[Candidate]

    def __str__(self) -> str:
        if self.key is None:
            return f"{self.name}: none"
        return f"{self.name}: '{self.key}' ({self.present}/{self.wanted})"


@dataclass
class LabelReport:
    """What was found while reading; ``str`` of it is one line, a rich console shows a table.

    Attributes:
        structures: number of structures, free atoms included.
        isolated: number of free atoms among them.
        atoms: atoms of all structures together.
        elements: symbols.
        files: file names and how many structures each holds.
        labels: energy, forces and stress.
        units: units of the files.
        findings: what was odd; errors are only here if reading was asked not to raise them.
    """

    structures: int
    isolated: int
    atoms: int
    elements: list[str]
    files: dict[str, int]
    labels: dict[str, LabelFound]
    units: UnitChoice
    findings: list[Finding] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """How much there is, without the labels."""
        free = f" ({self.isolated} free atoms)" if self.isolated else ""
        elements = " ".join(self.elements)
        if len(self.elements) > SHOWN:
            elements = f"{' '.join(self.elements[:SHOWN])} ... ({len(self.elements)} elements)"
        return f"{self.structures} structures{free}, {self.atoms} atoms, elements {elements}"

    def __str__(self) -> str:
        labels = "  ".join(str(label) for label in self.labels.values())
        converted = "" if self.units.are_native else f" | converted from {self.units}"
        return f"{self.summary} | {labels}{converted}"

    def __rich__(self) -> "RenderableType":
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        table.add_column("label", style="bold")
        table.add_column("key")
        table.add_column("structures", justify="right")
        table.add_column("smallest", justify="right")
        table.add_column("largest", justify="right")
        table.add_column("unit")
        table.add_column("")
        native = {
            "energy": self.units.energy,
            "forces": f"{self.units.energy}/{self.units.length}",
            "stress": self.units.stress or f"{self.units.energy}/{self.units.length}^3",
        }
        for name, label in self.labels.items():
            rows = sorted(label.candidates, key=lambda c: c.key not in (label.key or "").split("|"))
            for candidate in rows:
                used = candidate.key in (label.key or "").split("|")
                virial = "virial" in candidate.key.lower()
                table.add_row(
                    name,
                    candidate.key,
                    f"{candidate.count}/{label.wanted}",
                    _number(candidate.low),
                    _number(candidate.high),
                    self.units.energy if virial else native[name],
                    "[green]read[/]" if used else "not read",
                    style="" if used else "dim",
                )
            if not rows:
                table.add_row(name, "none found", f"0/{label.wanted}", "", "", "", "", style="dim")
        return table

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "structures": self.structures,
            "free_atoms": self.isolated,
            "atoms": self.atoms,
            "elements": self.elements,
            "files": self.files,
            "units": self.units.model_dump(),
            "labels": {
                name: {
                    "key": label.key,
                    "present": label.present,
                    "wanted": label.wanted,
                    "candidates": [
                        {
                            "key": c.key,
                            "structures": c.count,
                            "smallest": c.low if np.isfinite(c.low) else None,
                            "largest": c.high if np.isfinite(c.high) else None,
                        }
                        for c in label.candidates
                    ],
                }
                for name, label in self.labels.items()
            },
        }


class LabelFinder:
    """Finds, checks and converts the labels of raw structures.

    Args:
        frames: all structures of a data set.
        wanted: for every label the positions of the structures that should have it.
        choice: what the user asked for.
        units: units of the files.

    Attributes:
        findings: errors, warnings and notes so far.
        found: what became of every label.
    """

    def __init__(
        self,
        frames: Sequence[RawFrame],
        wanted: dict[str, list[int]],
        choice: LabelChoice,
        units: UnitChoice,
    ) -> None:
        self.frames, self.wanted, self.choice, self.units = frames, wanted, choice, units
        self.findings: list[Finding] = []
        self._converted: dict[tuple[str, str], dict[int, Any]] = {}
        self.candidates = {name: self._survey(name) for name in LABELS}
        self.found = {name: self._settle(name) for name in LABELS}

    def value(self, name: str, index: int) -> Any:
        """The label of one structure in eV and Angstrom, or None."""
        key = self.found[name].key
        if key is None or (name == "stress" and index not in self._wanted_stress):
            return None
        for one in key.split("|"):
            value = self._values(name, one).get(index)
            if value is not None:
                return value
        return None

    @property
    def _wanted_stress(self) -> set[int]:
        return set(self.wanted["stress"])

    # -- discovery ----------------------------------------------------------------------------

    def _survey(self, name: str) -> dict[str, Candidate]:
        candidates: dict[str, Candidate] = {}
        for index, frame in enumerate(self.frames):
            for key, value in named_values(frame):
                if not _is_named(name, key) or (array := _shaped(name, value, frame)) is None:
                    continue
                candidates.setdefault(key, Candidate(key)).add(index, array)
        return candidates

    def _settle(self, name: str) -> LabelFound:
        choice = self.choice.asked(name)
        candidates = self.candidates[name]
        if choice is None:
            return self._found(name, None)
        key = self._discover(name) if choice == "auto" else self._requested(name, choice)
        if key is None:
            return self._found(name, None)
        for one in key.split("|"):
            if one not in candidates:
                candidates[one] = self._count(name, one)
        self._check_missing(name, key, requested=choice != "auto")
        return self._found(name, key)

    def _found(self, name: str, key: str | None) -> LabelFound:
        have: set[int] = set()
        for one in (key or "").split("|"):
            have.update(self._values(name, one) if one else ())
        present = len(have.intersection(self.wanted[name]))
        wanted = set(self.wanted[name])
        for candidate in self.candidates[name].values():
            candidate.count = len(wanted.intersection(candidate.frames))
        return LabelFound(name, key, present, len(wanted), list(self.candidates[name].values()))

    def _requested(self, name: str, choice: str) -> str | None:
        keys = [key.strip() for key in choice.split("|")]
        missing = [key for key in keys if not any(_lookup(f, key) is not None for f in self.frames)]
        for key in missing:
            known = sorted({k for frame in self.frames for k, _ in named_values(frame)})
            near = get_close_matches(key, known, n=1)
            hint = f" - did you mean {near[0]!r}?" if near else ""
            self.findings.append(
                find(
                    "error",
                    f"missing {name}",
                    f"{name}: no structure has the key {key!r}{hint}; candidates: "
                    f"{self._list(name) or 'none'}",
                )
            )
        return None if missing else "|".join(keys)

    def _discover(self, name: str) -> str | None:
        candidates = dict(self.candidates[name])
        if name == "energy" and {"energy", "free_energy"} <= set(candidates):
            # ASE offers both: the extrapolated one and the one whose derivatives the forces are.
            self._compare_free_energy(candidates.pop("free_energy"))
        if not candidates:
            return self._misshapen(name)
        if len(candidates) == 1:
            return next(iter(candidates))
        best = max(candidates.values(), key=lambda c: (len(c.frames), c.key == name))
        if all(self._agree(name, best.key, other) for other in candidates):
            others = ", ".join(repr(key) for key in candidates if key != best.key)
            self.findings.append(
                find(
                    "note", "same label", f"{name}: {others} holds the same values as {best.key!r}"
                )
            )
            return best.key
        self.findings.append(
            find(
                "error",
                f"ambiguous {name}",
                f"{name}: several keys could be meant: {self._list(name)}; choose one with "
                f"labels.{name} (on the command line --{name}-key)",
            )
        )
        return None

    def _misshapen(self, name: str) -> str | None:
        """The key that bears the name of a label but nowhere its shape; None if there is none.

        What is meant as a label must not be passed over in silence; reading it is an error.
        """
        exact = {name, f"ref_{name}", f"dft_{name}"}
        keys = (key for frame in self.frames for key, _ in named_values(frame))
        return next((key for key in keys if key.lower() in exact), None)

    def _list(self, name: str) -> str:
        files = short_names(dict.fromkeys(frame.source for frame in self.frames))
        parts = []
        for candidate in self.candidates[name].values():
            inside = list(dict.fromkeys(files[self.frames[i].source] for i in candidate.frames))
            place = f" ({', '.join(inside[:3])})" if 0 < len(inside) < len(files) else ""
            parts.append(f"{candidate}{place}")
        return "; ".join(parts)

    def _agree(self, name: str, first: str, second: str) -> bool:
        a, b = self._values(name, first), self._values(name, second)
        return set(b) <= set(a) and all(
            np.allclose(a[i], b[i], rtol=1e-6, atol=1e-8, equal_nan=True) for i in b
        )

    def _compare_free_energy(self, free: Candidate) -> None:
        energy, other = self._values("energy", "energy"), self._values("energy", "free_energy")
        difference = max(
            (abs(energy[i] - other[i]) / max(len(self.frames[i].atoms), 1))
            for i in free.frames
            if i in energy
        ) if any(i in energy for i in free.frames) else 0.0  # fmt: skip
        if difference > 1e-3:
            self.findings.append(
                find(
                    "note",
                    "free energy",
                    f"energy: 'free_energy' differs from 'energy' by up to {1e3 * difference:.2f} "
                    "meV/atom (electronic smearing); the forces are derivatives of 'free_energy': "
                    "choose it with labels.energy if the difference matters",
                )
            )

    # -- values -------------------------------------------------------------------------------

    def _count(self, name: str, key: str) -> Candidate:
        candidate = Candidate(key)
        for index, frame in enumerate(self.frames):
            value = _lookup(frame, key)
            if value is not None and (array := _shaped(name, value, frame)) is not None:
                candidate.add(index, array)
        return candidate

    def _values(self, name: str, key: str) -> dict[int, Any]:
        """Converted values of a key by position of the structure; malformed ones are findings."""
        if (name, key) in self._converted:
            return self._converted[name, key]
        values: dict[int, Any] = {}
        malformed: list[RawFrame] = []
        asymmetric: list[RawFrame] = []
        example = ""
        for index, frame in enumerate(self.frames):
            raw = _lookup(frame, key)
            if raw is None:
                continue
            array = _shaped(name, raw, frame)
            if array is None:
                malformed.append(frame)
                example = example or _describe(raw)
                continue
            if name == "energy":
                values[index] = float(array) * self.units.energy_factor
            elif name == "forces":
                values[index] = array * self.units.forces_factor
            elif index in self._wanted_stress:
                stress = _stress_matrix(array)
                size = np.abs(stress).max()
                finite = np.isfinite(size)
                if finite and np.abs(stress - stress.T).max() > 1e-3 * size + 1e-12:
                    asymmetric.append(frame)
                values[index] = self._convert_stress(key, 0.5 * (stress + stress.T), frame)
        expected = {"energy": "one number", "forces": "three numbers per atom"}.get(
            name, "six or nine numbers"
        )
        if malformed:
            self.findings.append(
                find(
                    "error",
                    f"malformed {name}",
                    f"{name}: {key!r} should hold {expected}, got {example}",
                    malformed,
                )
            )
        if asymmetric:
            self.findings.append(
                find(
                    "warning",
                    "asymmetric stress",
                    f"{key!r} is not symmetric; the symmetric part is used",
                    asymmetric,
                )
            )
        self._converted[name, key] = values
        return values

    def _convert_stress(self, key: str, value: np.ndarray, frame: RawFrame) -> np.ndarray:
        if "virial" not in key.lower():
            return value * self.units.stress_factor
        volume = abs(np.linalg.det(frame.atoms.cell.array)) * self.units.length_factor**3
        return -value * self.units.energy_factor / volume

    def _check_missing(self, name: str, key: str, *, requested: bool) -> None:
        have: set[int] = set()
        for one in key.split("|"):
            have.update(self._values(name, one))
        missing = [i for i in self.wanted[name] if i not in have]
        if not missing or name in self.choice.allow_missing:
            return
        total = len(self.wanted[name])
        fatal = requested or name != "stress"
        remedy = (
            f"labels.allow_missing: [{name}] trains on those that have it, labels.{name}: null "
            f"leaves {'it' if name != 'forces' else 'them'} out"
        )
        self.findings.append(
            find(
                "error" if fatal else "warning",
                f"missing {name}",
                f"{name}: {key!r} is missing in {len(missing)} of {total} structures"
                + (f"; {remedy}" if fatal else "; they do not enter the stress loss"),
                [self.frames[i] for i in missing],
            )
        )


def named_values(frame: RawFrame) -> list[tuple[str, Any]]:
    """Everything in a structure that has a name: results first, then info, then arrays."""
    named = dict(frame.results)
    for prefix, table in (("info", frame.atoms.info), ("arrays", frame.atoms.arrays)):
        for key, value in table.items():
            if not isinstance(key, str) or key in ("numbers", "positions"):
                continue
            if key not in named:
                named[key] = value
            elif not _same(named[key], value):
                named[f"{prefix}:{key}"] = value
    return list(named.items())


def _lookup(frame: RawFrame, key: str) -> Any:
    prefix, colon, rest = key.partition(":")
    tables = {"results": frame.results, "info": frame.atoms.info, "arrays": frame.atoms.arrays}
    if colon and prefix in tables:
        return tables[prefix].get(rest)
    for table in tables.values():
        if table.get(key) is not None:
            return table[key]
    return None


def _is_named(name: str, key: str) -> bool:
    lowered = key.lower().replace("-", "_")
    if name == "energy" and _OTHER_ENERGIES.search(lowered):
        return False
    return _NAMED[name].search(lowered) is not None


def _shaped(name: str, value: Any, frame: RawFrame) -> np.ndarray | None:
    """The value as floats if it has the shape of the label, else None."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        return None
    array = array.astype(np.float64)
    if name == "energy":
        return array.reshape(()) if array.size == 1 and array.ndim <= 1 else None
    if name == "forces":
        return array if array.shape == (len(frame.atoms), 3) else None
    return array if array.shape in ((6,), (9,), (3, 3)) else None


def _stress_matrix(array: np.ndarray) -> np.ndarray:
    if array.shape == (6,):
        xx, yy, zz, yz, xz, xy = array
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return array.reshape(3, 3)


def _same(first: Any, second: Any) -> bool:
    first, second = np.asarray(first), np.asarray(second)
    return first.shape == second.shape and bool(np.all(first == second))


def _describe(value: Any) -> str:
    array = np.asarray(value)
    return repr(value)[:40] if array.ndim == 0 else f"an array of shape {array.shape}"


def _number(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""


def symbols_of(numbers: Sequence[int]) -> list[str]:
    """Chemical symbols of atomic numbers."""
    return [chemical_symbols[z] for z in numbers]


def needs_native_units(form: str) -> bool:
    """Whether ASE converts files of this format by itself."""
    return form not in UNCONVERTED
