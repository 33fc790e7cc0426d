"""The same structure twice: counted double within a set, errors too small between sets."""

from collections.abc import Mapping

import numpy as np

from equiv.data.dataset import Dataset, Frame
from equiv.data.report import CheckReport, Finding, find

ENERGY_TOLERANCE = 1e-4  # eV per atom
FORCE_TOLERANCE = 1e-3  # eV/Angstrom


def find_duplicates(dataset: Dataset) -> list[Finding]:
    """Structures that occur more than once, and those whose labels then contradict each other."""
    first: dict[str, Frame] = {}
    again: list[Frame] = []
    contradicting: list[Frame] = []
    for frame in dataset:
        original = first.setdefault(frame.structure_digest(), frame)
        if original is frame:
            continue
        again.append(frame)
        if not _same_labels(original, frame):
            contradicting += [original, frame]
    findings = []
    if contradicting:
        findings.append(
            find(
                "warning",
                "contradicting duplicates",
                f"{len(contradicting) // 2} structures occur again with other labels: one of "
                "each pair is wrong, levels of theory are mixed, or the structures differ in what "
                "is not read here (charge, spin)",
                contradicting,
            )
        )
    if again:
        findings.append(
            find(
                "note",
                "duplicates",
                f"{len(again)} of {len(dataset)} structures repeat an earlier one; they count more "
                "in the loss, and stay together when a validation set is split off",
                again,
            )
        )
    return findings


def check_leakage(train: Dataset, others: Mapping[str, Dataset]) -> CheckReport:
    """Structures of the training set that occur in another set as well (free atoms do not count).

    Errors measured on those say nothing about new structures. Compared by content: elements,
    positions to 1e-6 Angstrom, cell and periodicity.
    """
    known = {frame.structure_digest() for frame in train if not frame.isolated}
    findings = []
    for name, other in others.items():
        leaked = [f for f in other if not f.isolated and f.structure_digest() in known]
        if leaked:
            findings.append(
                find(
                    "warning",
                    "leakage",
                    f"{len(leaked)} of {len(other)} structures of {name} are in the training set "
                    f"as well; errors on them are too small",
                    leaked,
                )
            )
    return CheckReport(findings)


def _same_labels(first: Frame, second: Frame) -> bool:
    if first.energy is not None and second.energy is not None:
        tolerance = ENERGY_TOLERANCE * len(first.atoms)
        if abs(first.energy - second.energy) > tolerance:
            return False
    if first.forces is not None and second.forces is not None:
        return bool(np.allclose(first.forces, second.forces, rtol=0, atol=FORCE_TOLERANCE))
    return True
