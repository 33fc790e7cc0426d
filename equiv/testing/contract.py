"""The contract that every model keeps, checkable by anyone for any model."""

import copy
from collections.abc import Mapping, Sequence

import ase
import torch

from equiv.models import Model
from equiv.testing.laws import LAWS
from equiv.testing.subject import Subject


def check_model(
    model: Model,
    *,
    structures: Mapping[str, ase.Atoms] | None = None,
    laws: Sequence[str] | None = None,
    tolerances: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    r"""Check every law that a potential obeys, whatever its architecture and weights.

    .. math::
        E(R r + t) = E(r), \quad F = -\partial E / \partial r, \quad
        \sigma = V^{-1}\, \partial E / \partial \varepsilon, \quad E(\text{n copies}) = n E, \;\dots

    The laws, by name, are the keys of :data:`equiv.testing.LAWS`, each with its statement and the
    error it allows. They run on copies in float64 (and once in float32) on the CPU; the model given
    is left alone. Errors are relative: forces to the largest force in the structures, energies to
    that force times 1 Angstrom.

    Cost: a few hundred evaluations of structures with at most six atoms.

    Args:
        model: trained or not. Weights that are exactly zero are refused, for they obey everything.
        structures: what to run it on; by default :func:`equiv.testing.small_structures` with its
            own elements.
        laws: names of the laws to check; all by default.
        tolerances: errors to allow instead of the law's own, by name.
        seed: of the rotations, displacements and permutations drawn.

    Returns:
        The largest error by law.

    Raises:
        AssertionError: lists every broken law with the quantity, the structure and the error.
        ValueError: an unknown law is named, or the model predicts no forces at all.

    >>> from equiv.testing import check_model
    >>> errors = check_model(model)                     # doctest: +SKIP
    >>> errors = check_model(model, laws=["rotation"])  # doctest: +SKIP
    """
    chosen = list(LAWS) if laws is None else list(laws)
    tolerances = dict(tolerances or {})
    for name in [*chosen, *tolerances]:
        if name not in LAWS:
            raise ValueError(f"there is no law {name!r}; the laws are {', '.join(LAWS)}")
    subject = Subject(
        copy.deepcopy(model).to(device="cpu", dtype=torch.float64), structures, seed=seed
    )
    errors: dict[str, float] = {}
    broken: list[str] = []
    for name in chosen:
        law = LAWS[name]
        allowed = tolerances.get(name, law.tolerance)
        deviations = law.check(subject)
        # nan must count as the worst of all, and max() would lose it
        worst = max(
            deviations,
            key=lambda deviation: (
                float("inf") if deviation.error != deviation.error else deviation.error
            ),
        )
        errors[name] = worst.error
        if not worst.error <= allowed:
            broken.append(
                f"{name}: {law.statement}\n"
                f"    {worst.what}: error {worst.error:.1e}, allowed {allowed:.1e}"
            )
    if broken:
        laws_broken = "1 law" if len(broken) == 1 else f"{len(broken)} laws"
        raise AssertionError(f"{type(model).__name__} breaks {laws_broken}:\n" + "\n".join(broken))
    return errors
