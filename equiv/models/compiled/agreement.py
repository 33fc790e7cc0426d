"""Whether compiled code says what the model says."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# The largest deviation from the float64 reference. Energies are absolute (eV); the others relative
# to the largest component of the quantity, or to 1 eV/Angstrom and 1 eV/Angstrom^3 where it
# is smaller. Gradients of the loss with respect to the weights are relative to the largest of all.
TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"energies": 1e-9, "forces": 1e-9, "stress": 1e-9, "gradients": 1e-8},
    torch.float32: {"energies": 1e-5, "forces": 1e-5, "stress": 1e-5, "gradients": 1e-4},
}
UNITS = {"energies": "eV/atom", "forces": "eV/A", "stress": "eV/A^3", "gradients": "(relative)"}
# A model may lose more digits than that by itself: compiled code may be off by as many times the
# deviation of the uncompiled model in the same precision.
FACTOR = 4.0


@dataclass(frozen=True)
class Agreement:
    """Deviations of compiled code from the float64 reference, by quantity.

    Attributes:
        errors: largest absolute deviations; NaN if something is not finite.
        allowed: what they may be.
    """

    errors: dict[str, float]
    allowed: dict[str, float]

    def __bool__(self) -> bool:
        return all(error <= self.allowed[name] for name, error in self.errors.items())

    def __str__(self) -> str:
        return ", ".join(f"{name} {error:.1e} {UNITS[name]}" for name, error in self.errors.items())

    @property
    def faults(self) -> str:
        """The quantities that deviate too much."""
        return ", ".join(
            f"{name} by {error:.3g} {UNITS[name]} (allowed: {self.allowed[name]:.1g})"
            for name, error in self.errors.items()
            if not error <= self.allowed[name]
        )


def compare(
    compiled: Mapping[str, Tensor | None],
    eager: Mapping[str, Tensor | None],
    reference: Mapping[str, Tensor | None],
    dtype: torch.dtype,
) -> Agreement:
    r"""Compare with the model in float64, and with itself in its own precision.

    .. math::
        \max_i |x_i - x^{64}_i| \le \max\Big( \tau \max(1, \max_i |x^{64}_i|),\;
        4 \max_i |x^{\text{eager}}_i - x^{64}_i| \Big)

    Args:
        compiled: values by quantity, from compiled code; None where there is none.
        eager: the same, from the model as it stands.
        reference: the same, from the model in float64.
        dtype: precision of the model.
    """
    tolerances = TOLERANCES.get(dtype, TOLERANCES[torch.float32])
    errors, allowed = {}, {}
    for name, exact in reference.items():
        value, own = compiled.get(name), eager.get(name)
        if exact is None or value is None or own is None:
            continue
        known = ~exact.isnan()  # without a volume there is no stress
        exact = exact.detach().double()[known]
        if not exact.numel():
            continue
        errors[name] = float((value.detach().double()[known] - exact).abs().max())
        noise = float((own.detach().double()[known] - exact).abs().max())
        size = 1.0 if name in ("energies", "gradients") else max(1.0, float(exact.abs().max()))
        allowed[name] = max(tolerances[name] * size, FACTOR * noise)
    return Agreement(errors, allowed)
