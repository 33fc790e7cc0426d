"""Read labelled structures: labels found and checked, units converted, nothing guessed."""

import numpy as np

from equiv.data.dataset import DEFAULT_GROUP, Dataset, Frame
from equiv.data.faults import find_faults
from equiv.data.files import RawFrame, Sources, file_format, find_files, read_file
from equiv.data.labels import (
    LABELS,
    LabelFinder,
    LabelReport,
    needs_native_units,
    symbols_of,
)
from equiv.data.options import LabelChoice, UnitChoice
from equiv.data.report import CheckReport, Finding, find
from equiv.errors import DataError


def read_frames(
    sources: Sources,
    *,
    labels: LabelChoice | None = None,
    units: UnitChoice | None = None,
    group_key: str | None = None,
) -> Dataset:
    r"""Labelled structures from everything ASE reads, in eV and Angstrom.

    .. math::
        E \leftarrow u_E E, \quad F \leftarrow \tfrac{u_E}{u_L} F, \quad
        \sigma \leftarrow u_\sigma \sigma \text{ or } -\tfrac{u_E}{V} W

    Forces are those stored in the file: ASE's ``get_forces`` would set those of constrained atoms
    to zero.

    Args:
        sources: a file, folder or glob pattern, or a list of them.
        labels: which keys hold energy, forces and stress; found by themselves by default.
        units: units of the files; formats that ASE converts itself (VASP, CP2K, ...) need none.
        group_key: ``info`` key that names the group of a structure; ``config_type`` by default.

    Raises:
        DataError: a file is missing, empty, damaged or of unknown format; a label is ambiguous,
            malformed, missing in some structures (unless allowed) or zero everywhere; a structure
            is no structure (coordinates that are not numbers, unknown elements, a periodic cell
            without volume). All faults of the labels are told at once.
    """
    dataset = survey(sources, labels=labels, units=units, group_key=group_key)
    findings = (dataset.labels.findings if dataset.labels else []) + find_faults(dataset)
    errors = CheckReport(findings).errors
    if errors:
        raise DataError("\n  ".join(map(str, errors)))
    return dataset


def survey(
    sources: Sources,
    *,
    labels: LabelChoice | None = None,
    units: UnitChoice | None = None,
    group_key: str | None = None,
) -> Dataset:
    """The same as :func:`read_frames`, but faults of the labels become findings of the report.

    Raises:
        DataError: a file is missing, empty, damaged or of unknown format.
    """
    choice, units = labels or LabelChoice(), units or UnitChoice()
    raw: list[RawFrame] = []
    files: dict[str, int] = {}
    for path in find_files(sources):
        form = file_format(path)
        if not units.are_native and needs_native_units(form):
            raise DataError(
                f"{path}: ASE converts {form} files to eV and Angstrom itself, so no units may be "
                f"given for them (got {units})"
            )
        before = len(raw)
        raw.extend(read_file(path))
        files[str(path)] = len(raw) - before

    frames = [_frame(one, units, group_key) for one in raw]
    if group_key is not None and not any(group_key in one.atoms.info for one in raw):
        raise DataError(f"group_key: no structure has the key {group_key!r} in its info")
    finder = LabelFinder(raw, _wanted(frames), choice, units)
    for index, frame in enumerate(frames):
        frame.energy = finder.value("energy", index)
        frame.forces = finder.value("forces", index)
        frame.stress = finder.value("stress", index)
    findings = [*finder.findings, *_without_labels(finder, choice), *_file_notes(raw, frames)]
    dataset = Dataset(frames)
    dataset.labels = LabelReport(
        structures=len(frames),
        isolated=sum(frame.isolated for frame in frames),
        atoms=dataset.num_atoms,
        elements=symbols_of(dataset.elements),
        files=files,
        labels=finder.found,
        units=units,
        findings=findings,
    )
    return dataset


def _frame(raw: RawFrame, units: UnitChoice, group_key: str | None) -> Frame:
    atoms = raw.atoms.copy()
    if units.length_factor != 1.0:
        atoms.positions *= units.length_factor
        atoms.cell.array[:] *= units.length_factor
    group = str(atoms.info.get(group_key or "config_type", DEFAULT_GROUP))
    weight = atoms.info.get("config_weight", 1.0)
    if not isinstance(weight, int | float | np.number) or not np.isfinite(weight) or weight < 0:
        raise DataError(
            f"{raw.source}: structure {raw.index}: config_weight should be a number of zero or "
            f"more, got {weight!r}"
        )
    return Frame(atoms, None, None, None, raw.source, raw.index, group, float(weight), raw.line)


def _wanted(frames: list[Frame]) -> dict[str, list[int]]:
    """Which structures should have which label: free atoms have no forces, molecules no stress."""
    bound = [i for i, frame in enumerate(frames) if not frame.isolated]
    return {
        "energy": list(range(len(frames))),
        "forces": bound,
        "stress": [i for i in bound if _has_volume(frames[i])],
    }


def _has_volume(frame: Frame) -> bool:
    cell = frame.atoms.cell
    return bool(frame.atoms.pbc.any() and np.isfinite(cell.array).all() and cell.volume > 0)


def _without_labels(finder: LabelFinder, choice: LabelChoice) -> list[Finding]:
    """An error if there is nothing at all to learn, although it was asked for."""
    told = {finding.kind.split()[0] for finding in finder.findings if finding.severity == "error"}
    if any(label.key for label in finder.found.values()) or told & {"ambiguous", "missing"}:
        return []
    if all(choice.asked(name) is None for name in LABELS):
        return []
    keys = sorted({key for raw in finder.frames for key in (*raw.results, *raw.atoms.info)})
    arrays = sorted(
        {key for raw in finder.frames for key in raw.atoms.arrays} - {"numbers", "positions"}
    )
    return [
        find(
            "error",
            "no labels",
            "no energy, forces or stress was found; the structures have "
            f"{', '.join(map(repr, keys + arrays)) or 'no named values at all'}. If one of them is "
            "meant, name it with labels.energy, labels.forces, labels.stress",
        )
    ]


def _file_notes(raw: list[RawFrame], frames: list[Frame]) -> list[Finding]:
    findings = []
    for note in dict.fromkeys(note for one in raw for note in one.notes):
        concerned = [one for one in raw if note in one.notes]
        findings.append(find("warning", "odd file", note, concerned))
    weighted = [frame for frame in frames if frame.weight != 1.0]
    if weighted:
        findings.append(
            find("note", "weights", f"config_weight weighs {len(weighted)} structures", weighted)
        )
    return findings
