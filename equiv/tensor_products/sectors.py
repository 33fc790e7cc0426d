"""Irreps of natural and of unnatural parity, each kept as one spherical tensor."""

from collections import Counter
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3 import Irrep, Irreps, parse_irreps

NATURAL, PSEUDO = 1, -1
SIGNS = (NATURAL, PSEUDO)

Stacks = tuple[Tensor | None, Tensor | None]
"""A natural and a pseudo spherical tensor ``[..., (l_max + 1)**2, channels]``; None if absent."""


def stack(stacks: Stacks, sign: int) -> Tensor | None:
    """The natural (+1) or pseudo (-1) one of two stacks."""
    return stacks[0] if sign == NATURAL else stacks[1]


def sign_of(ir: Irrep) -> int:
    r"""+1 for natural parity :math:`(-1)^l`, -1 for the other (pseudo)."""
    return ir.p * (-1) ** ir.l


def irrep_of(l: int, sign: int) -> Irrep:
    r"""The irrep of degree l and parity ``sign`` :math:`\cdot (-1)^l`."""
    return cast(Irrep, Irrep(l, sign * (-1) ** l))


@dataclass(frozen=True)
class Sectors:
    r"""How irreps of one multiplicity are stored as two spherical tensors.

    An irrep :math:`(l, p)` has the *sign* :math:`s = p\,(-1)^l`: natural (+1) is the parity of the
    spherical harmonics, as of scalars, vectors and everything made of positions; pseudo (-1) the
    other, as of pseudovectors. Conservation of parity in a coupling of :math:`l_1` and :math:`l_2`
    to :math:`l_3` is then one rule:

    .. math::
        s_3 = s_1\, s_2\, (-1)^{l_1 + l_2 + l_3}

    so even couplings (even :math:`l_1 + l_2 + l_3`) multiply the signs, and odd ones flip them in
    addition. Degrees that are missing up to the highest of a sector are kept as zeros.

    Attributes:
        channels: multiplicity of every irrep.
        natural: degrees of natural parity, ascending.
        pseudo: degrees of the other parity.
        terms: ``(sign, degree, first channel, multiplicity)`` for every term of the flat layout.
    """

    channels: int
    natural: tuple[int, ...]
    pseudo: tuple[int, ...]
    terms: tuple[tuple[int, int, int, int], ...]

    def degrees(self, sign: int) -> tuple[int, ...]:
        """The degrees of a sector, ascending."""
        return self.natural if sign == NATURAL else self.pseudo

    def l_max(self, sign: int) -> int:
        """Highest degree of a sector; -1 if it is absent."""
        return max(self.degrees(sign), default=-1)

    @property
    def dims(self) -> tuple[int, int]:
        """Components of the natural and of the pseudo stack, 0 for an absent one."""
        return (self.l_max(NATURAL) + 1) ** 2, (self.l_max(PSEUDO) + 1) ** 2

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """Every ``(sign, degree)``, natural ones first."""
        return tuple((s, l) for s in SIGNS for l in self.degrees(s))

    def component(self, sign: int, values: dict[int, float]) -> Float[Tensor, " lm"]:
        """A number for each degree, repeated for its components; 0 where a degree is missing."""
        l_max = self.l_max(sign)
        numbers = [values.get(l, 0.0) for l in range(l_max + 1) for _ in range(2 * l + 1)]
        return torch.tensor(numbers, dtype=torch.float64)

    def split(self, x: Float[Tensor, "rows dim"]) -> Stacks:
        """The two stacks of flat rows, copied."""
        parts = x.split([mul * (2 * l + 1) for _, l, _, mul in self.terms], dim=1)
        blocks: dict[tuple[int, int], list[Tensor]] = {}
        for part, (sign, l, _, mul) in zip(parts, self.terms, strict=True):
            blocks.setdefault((sign, l), []).append(part.unflatten(1, (mul, 2 * l + 1)).mT)
        natural, pseudo = (
            [
                torch.cat(blocks[sign, l], dim=2)
                if (sign, l) in blocks
                else x.new_zeros(x.shape[0], 2 * l + 1, self.channels)
                for l in range(self.l_max(sign) + 1)
            ]
            for sign in SIGNS
        )
        return (
            torch.cat(natural, dim=1) if natural else None,
            torch.cat(pseudo, dim=1) if pseudo else None,
        )

    def join(self, stacks: Stacks) -> Float[Tensor, "rows dim"]:
        """Flat rows of two stacks; inverse of :meth:`split`."""
        parts = []
        for sign, l, first, mul in self.terms:
            x = stack(stacks, sign)
            assert x is not None
            block = x[:, l**2 : (l + 1) ** 2, first : first + mul]
            parts.append(block.mT.flatten(1))
        return torch.cat(parts, dim=1)


def sectors_of(irreps: str | Irreps, name: str = "irreps") -> Sectors:
    """How irreps are stored as two spherical tensors.

    The terms may come in any order, degrees may be missing, and one irrep may be spread over
    several terms; every irrep must have the same multiplicity in all.

    Raises:
        EquivError: they have several multiplicities, or there are none.
    """
    irreps = parse_irreps(irreps, name)
    counts: Counter[Irrep] = Counter()
    terms = []
    for mul, ir in irreps:
        if mul:
            terms.append((sign_of(ir), ir.l, counts[ir], mul))
            counts[ir] += mul
    if not counts:
        raise EquivError(f"{name}: '{irreps}' is empty; expected irreps such as '8x0e + 8x1o'")
    (first, channels), *others = counts.items()
    for ir, mul in others:
        if mul != channels:
            raise EquivError(
                f"{name}: '{irreps}' has {mul} channels of {ir} but {channels} of {first}; a "
                "product of spherical tensors needs one number of channels for all irreps of a "
                "tensor. Equal them with a linear layer, or use method='clebsch_gordan'"
            )
    natural, pseudo = (
        tuple(sorted(ir.l for ir in counts if sign_of(ir) == sign)) for sign in SIGNS
    )
    return Sectors(channels, natural, pseudo, tuple(terms))
