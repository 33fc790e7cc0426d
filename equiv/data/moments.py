"""Sizes of what is to be learned, measured once over all data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from equiv.data.dataset import Frame
from equiv.data.reference import left_over
from equiv.graph import neighbor_list


@dataclass(frozen=True)
class Statistics:
    r"""Moments of a data set.

    Attributes:
        mean_neighbors: neighbours within the cutoff of the average atom.
        energy_shift: mean of :math:`(E - \sum_i E^0_{z_i})/N` over structures, eV/atom.
        energy_scale: its standard deviation, eV/atom.
        forces_rms: root mean square of all force components, eV/Angstrom.
        stress_rms: root mean square of all stress components, eV/Angstrom^3.
    """

    mean_neighbors: float
    energy_shift: float
    energy_scale: float
    forces_rms: float
    stress_rms: float


def statistics(
    frames: Iterable[Frame], cutoff: float, reference: Mapping[int, float]
) -> Statistics:
    r"""Measure a data set in one pass.

    .. math::
        \bar n = \frac{\sum_s |\mathrm{edges}_s|}{\sum_s N_s}, \quad
        \mu = \langle x \rangle, \quad s = \sqrt{\langle (x - \mu)^2 \rangle}, \quad
        x_s = \frac{E_s - \sum_{i \in s} E^0_{z_i}}{N_s}, \quad
        F_\mathrm{rms} = \sqrt{\langle F_{ia}^2 \rangle}

    Args:
        frames: structures; free atoms should be left out.
        cutoff: Angstrom.
        reference: :math:`E^0_z` (eV) by atomic number.

    Returns:
        The moments; NaN where no structure has the label, 0 neighbours where there is no atom.
    """
    edges = atoms = 0
    energy, forces, stress = _Moments(), _Moments(), _Moments()
    for frame in frames:
        found = neighbor_list(
            frame.atoms.positions, frame.atoms.cell.array, frame.atoms.pbc, cutoff
        )
        edges += len(found)
        atoms += len(frame.atoms)
        if frame.energy is not None and len(frame.atoms):
            energy.add(np.array([left_over(frame, reference)]))
        if frame.forces is not None:
            forces.add(frame.forces)
        if frame.stress is not None:
            stress.add(frame.stress)
    return Statistics(
        mean_neighbors=edges / atoms if atoms else 0.0,
        energy_shift=energy.mean,
        energy_scale=energy.deviation,
        forces_rms=forces.rms,
        stress_rms=stress.rms,
    )


class _Moments:
    """Count, mean and summed squared deviation by blocks (Chan, Golub and LeVeque 1983).

    Squares of energies of thousands of eV are never subtracted, so nothing cancels.
    """

    def __init__(self) -> None:
        self.count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        if not values.size:
            return
        count, mean = values.size, float(values.mean())
        squares = float(np.square(values - mean).sum())
        total, difference = self.count + count, mean - self._mean
        self._squares += squares + difference**2 * self.count * count / total
        self._mean += difference * count / total
        self.count = total

    @property
    def mean(self) -> float:
        return self._mean if self.count else float("nan")

    @property
    def deviation(self) -> float:
        return float(np.sqrt(self._squares / self.count)) if self.count else float("nan")

    @property
    def rms(self) -> float:
        if not self.count:
            return float("nan")
        return float(np.sqrt(self._squares / self.count + self._mean**2))
