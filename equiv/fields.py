r"""Every tensor name that travels through the package: its axes, unit and convention, written once.

A name means the same in a graph, a prediction, a file and a plot. Names of things each atom has are
plural, names of things a structure has are singular. Axes: `atoms` and `edges` count over the whole
batch, `graphs` over its structures.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """What one tensor holds.

    Attributes:
        axes: named axes, as in the jaxtyping annotations.
        unit: unit, empty for pure numbers and indices.
        meaning: one sentence, with the convention where there is a choice.
    """

    axes: str
    unit: str
    meaning: str


FIELDS: dict[str, Field] = {
    # structure
    "positions": Field("atoms 3", "Ang", "Cartesian coordinates, always float64"),
    "atomic_numbers": Field("atoms", "", "number of protons, 1 to 118"),
    "cell": Field("graphs 3 3", "Ang", "lattice vectors in rows; rows of open directions may be 0"),
    "pbc": Field("graphs 3", "", "which lattice directions repeat"),
    "total_charge": Field("graphs", "e", "charge of the whole structure (or of one cell)"),
    # edges
    "senders": Field("edges", "", "atom in which an edge begins"),
    "receivers": Field("edges", "", "atom in which an edge ends, ascending"),
    "shifts": Field(
        "edges 3", "", "lattice vectors added to the sender, in units of the cell rows"
    ),
    # bookkeeping of a batch
    "batch": Field("atoms", "", "structure to which an atom belongs, ascending"),
    "ptr": Field("graphs+1", "", "first atom of each structure, then the number of atoms"),
    "frame_index": Field("graphs", "", "position of a structure in the set it came from"),
    "weight": Field("graphs", "", "weight of a structure in the loss"),
    # labels and predictions
    "energy": Field("graphs", "eV", "potential energy, reference energies included"),
    "energies": Field("atoms", "eV", "share of each atom in `energy`; they sum to it"),
    "forces": Field("atoms 3", "eV/Ang", "F = -dE/dr"),
    "stress": Field(
        "graphs 3 3", "eV/Ang^3", "sigma = (1/V) dE/dstrain, symmetric; tension is positive (ASE)"
    ),
    "virials": Field("graphs 3 3", "eV", "W = -dE/dstrain = -V sigma; compression is positive"),
    "atomic_virials": Field("atoms 3 3", "eV", "share of each atom in `virials`; they sum to it"),
    "charges": Field("atoms", "e", "partial charge of each atom; they sum to `total_charge`"),
    "dipole": Field(
        "graphs 3", "e Ang", "sum of q (r - mean r), of structures that are not periodic"
    ),
    "has_energy": Field("graphs", "", "whether `energy` is labelled; NaN where it is not"),
    "has_forces": Field("graphs", "", "whether `forces` are labelled; NaN where they are not"),
    "has_stress": Field("graphs", "", "whether `stress` is labelled; NaN where it is not"),
}
