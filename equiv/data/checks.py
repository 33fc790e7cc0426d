"""Everything that can be known to be wrong, or looks wrong, before training."""

from equiv.data.consistency import find_contradictions
from equiv.data.dataset import Dataset
from equiv.data.duplicates import find_duplicates
from equiv.data.faults import find_faults
from equiv.data.report import CheckReport
from equiv.data.suspicions import find_suspicions


def check_frames(dataset: Dataset) -> CheckReport:
    """All findings about a data set, each with the numbers of the structures concerned.

    Errors: labels ambiguous, missing or malformed, zero everywhere in a file, not finite, forces
        zeroed on
    constrained atoms; structures that are none. Warnings: units and signs that look wrong, forces
    above 50 eV/Angstrom, atoms closer than half the sum of their covalent radii, duplicates with
    other labels, molecules without any force. Notes: duplicates, forces that do not add up to zero,
    and the like. Linear in the number of atoms.
    """
    reading = dataset.labels.findings if dataset.labels is not None else []
    faults = find_faults(dataset)
    if faults:
        # What is no number cannot be looked at any further.
        return CheckReport([*reading, *faults])
    return CheckReport(
        [
            *reading,
            *find_suspicions(dataset),
            *find_contradictions(dataset),
            *find_duplicates(dataset),
        ]
    )
