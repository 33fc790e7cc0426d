"""Labelled structures: reading, label discovery, checks, splits, reference energies and statistics.

Nothing is imported before it is used, so that recipes can be validated without ASE or torch.
"""

from typing import TYPE_CHECKING

from equiv.lazy import lazy_names

_HOME = {
    "CheckReport": "equiv.data.report",
    "Dataset": "equiv.data.dataset",
    "Finding": "equiv.data.report",
    "Frame": "equiv.data.dataset",
    "LabelChoice": "equiv.data.options",
    "LabelReport": "equiv.data.labels",
    "ReferenceEnergies": "equiv.data.reference",
    "Statistics": "equiv.data.moments",
    "UnitChoice": "equiv.data.options",
    "check_frames": "equiv.data.checks",
    "check_leakage": "equiv.data.duplicates",
    "read_frames": "equiv.data.reading",
    "reference_energies": "equiv.data.reference",
    "shipped": "equiv.data.catalog",
    "split_frames": "equiv.data.split",
    "statistics": "equiv.data.moments",
    "survey": "equiv.data.reading",
}

__all__ = [
    "CheckReport",
    "Dataset",
    "Finding",
    "Frame",
    "LabelChoice",
    "LabelReport",
    "ReferenceEnergies",
    "Statistics",
    "UnitChoice",
    "check_frames",
    "check_leakage",
    "read_frames",
    "reference_energies",
    "shipped",
    "split_frames",
    "statistics",
    "survey",
]

if TYPE_CHECKING:
    from equiv.data.catalog import shipped
    from equiv.data.checks import check_frames
    from equiv.data.dataset import Dataset, Frame
    from equiv.data.duplicates import check_leakage
    from equiv.data.labels import LabelReport
    from equiv.data.moments import Statistics, statistics
    from equiv.data.options import LabelChoice, UnitChoice
    from equiv.data.reading import read_frames, survey
    from equiv.data.reference import ReferenceEnergies, reference_energies
    from equiv.data.report import CheckReport, Finding
    from equiv.data.split import split_frames

__getattr__, __dir__ = lazy_names(__name__, __all__, _HOME)
