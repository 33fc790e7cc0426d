r"""Products of spherical tensors that are one bilinear map for all channels."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from equiv.errors import EquivError
from equiv.so3 import Irreps, parse_irreps, wigner_3j
from equiv.tensor_products.channels import ChannelMixing, Channels, DegreeWeights, PlainChannels
from equiv.tensor_products.protocol import TensorProduct
from equiv.tensor_products.sectors import (
    SIGNS,
    Sectors,
    Stacks,
    irrep_of,
    sectors_of,
    stack,
)

ChannelMode = Literal["uuu", "uvu", "uvv", "uvw"]


@dataclass(frozen=True)
class DegreePath:
    """One coupling of degrees that a product realises, with the signs of their sectors."""

    l1: int
    sign1: int
    l2: int
    sign2: int
    l3: int
    sign3: int


class SphericalTensorProduct(TensorProduct):
    r"""A product of two stacks of all degrees at once, the same in every channel.

    .. math::
        z^{l_3 s_3}_{m_3} = \gamma_{l_3 s_3} \sum_{l_1 s_1 l_2 s_2} \kappa_{l_1 l_2 l_3}
        \sum_{m_1 m_2} w^{(l_1 l_2 l_3)}_{m_1 m_2 m_3}\;
        \alpha_{l_1} x^{l_1 s_1}_{m_1}\; \beta_{l_2} y^{l_2 s_2}_{m_2}, \qquad
        s_3 = s_1 s_2 (-1)^{l_1 + l_2 + l_3}

    :math:`w` is :func:`equiv.so3.wigner_3j`; :math:`s = \pm 1` says whether an irrep has natural
    parity (see :class:`Sectors`). The structure constants :math:`\kappa` (:meth:`coupling`) are
    what distinguishes the methods: they are fixed by the mathematics of a method, which computes
    the whole sum in a few matrix products without visiting its terms. Methods that multiply
    functions on the sphere know even couplings only; methods that set :attr:`couples_odd` know odd
    ones too, and with them products of natural tensors that are pseudo.

    The factors :math:`\alpha, \beta, \gamma` give components of unit variance for independent
    inputs of unit variance; they are folded into constants and cost nothing.

    **Channels.** Every irrep of a tensor has the same multiplicity. In mode

    - ``"uuu"`` all three tensors have the same channels, and channel c of z is the product of
      channels c of x and y;
    - ``"uvu"`` the second input has a single channel, which meets every channel of the first
      (``"uvv"``: the other way round);
    - ``"uvw"`` channels are mixed before and after (:class:`ChannelMixing`): any multiplicities.

    **Weights.** In the first three modes one for each irrep and channel of all three tensors
    (:class:`DegreeWeights`), in mode ``"uvw"`` those of three linear maps.

    **Layouts.** :meth:`forward` takes e3nn's flat layout, :meth:`forward_spherical` spherical
    tensors if all is natural, :meth:`forward_sectors` pairs of spherical tensors, natural and
    pseudo.

    To add a method: derive a class, implement :meth:`coupling` (the definition) and :meth:`couple`
    (the fast path, which includes :meth:`scale1`, :meth:`scale2` and :meth:`scale`; what it needs
    is made in :meth:`build`).

    Args:
        irreps_in1: irreps of the first argument, all of one multiplicity; degrees may be missing.
        irreps_in2: irreps of the second argument, likewise.
        irreps_out: irreps of the result; default every one that can be reached.
        mode: see above; by default the first of the three that fits the multiplicities.
        weighted: whether there are weights; mode ``"uvw"`` always has.
        rank: number of channels inside, in mode ``"uvw"``; default that of the result.
        internal_weights: see :class:`TensorProduct`.

    Raises:
        EquivError: the irreps have several multiplicities, an output cannot be reached (the message
            lists what can), or the mode does not fit.
    """

    couples_odd: ClassVar[bool] = False

    def __init__(
        self,
        irreps_in1: str | Irreps,
        irreps_in2: str | Irreps,
        irreps_out: str | Irreps | None = None,
        *,
        mode: ChannelMode | None = None,
        weighted: bool = True,
        rank: int | None = None,
        internal_weights: bool = True,
    ) -> None:
        in1, in2 = parse_irreps(irreps_in1, "irreps_in1"), parse_irreps(irreps_in2, "irreps_in2")
        sectors1, sectors2 = sectors_of(in1, "irreps_in1"), sectors_of(in2, "irreps_in2")
        paths = list(self._all_paths(sectors1, sectors2))
        reached = sorted({(p.l3, -p.sign3) for p in paths})
        if irreps_out is None:
            channels = max(sectors1.channels, sectors2.channels)
            out = cast(Irreps, Irreps([(channels, irrep_of(l, -sign)) for l, sign in reached]))
        else:
            out = parse_irreps(irreps_out, "irreps_out")
            self._check_reached(out, in1, in2, [(l, -sign) for l, sign in reached])
        sectors = sectors_of(out, "irreps_out")
        channels = _channels(mode, sectors1, sectors2, sectors, weighted, rank or sectors.channels)
        super().__init__(
            in1,
            in2,
            out,
            weight_numel=channels.weight_numel,
            internal_weights=internal_weights,
        )
        self.sectors1, self.sectors2, self.sectors = sectors1, sectors2, sectors
        self.channels = channels
        self.paths = [p for p in paths if p.l3 in sectors.degrees(p.sign3)]
        self._scales1 = {l: self.input_scale(l) for _, l in sectors1.rows}
        self._scales2 = {l: self.input_scale(l) for _, l in sectors2.rows}
        variances = dict.fromkeys(sectors.rows, 0.0)
        for p in self.paths:
            factor = self._scales1[p.l1] * self._scales2[p.l2] * self.coupling(p.l1, p.l2, p.l3)
            variances[p.sign3, p.l3] += factor**2 / (2 * p.l3 + 1)
        self._scales = {row: 1 / math.sqrt(v) for row, v in variances.items()}
        self.build()

    def build(self) -> None:
        """Prepare :meth:`couple`; called at the end of the construction, when scales are known."""

    @abstractmethod
    def coupling(self, l1: int, l2: int, l3: int) -> float:
        r"""The structure constant :math:`\kappa_{l_1 l_2 l_3}`, from a formula of its own.

        Never by way of :meth:`couple`, which is tested against it. 0 where there is no coupling.
        """
        raise NotImplementedError

    @abstractmethod
    def couple(self, x1: Stacks, x2: Stacks) -> Stacks:
        r"""The product without weights, of stacks ``[rows, (l_max + 1)**2, channels]``.

        One of them may have a single channel, to be broadcast. A stack that the sectors lack is
        None. Components of missing degrees are 0 and may come out as anything.
        """
        raise NotImplementedError

    def input_scale(self, l: int) -> float:
        r""":math:`\alpha_l = \beta_l`, the weight of a degree; here that of equal norms."""
        return 1 / math.sqrt(2 * l + 1)

    def scale1(self, sign: int) -> Float[Tensor, " lm"]:
        r""":math:`\alpha` for each component of a sector of the first input; 0 if missing."""
        return self.sectors1.component(sign, self._scales1)

    def scale2(self, sign: int) -> Float[Tensor, " lm"]:
        r""":math:`\beta` for each component of a sector of the second input; 0 if missing."""
        return self.sectors2.component(sign, self._scales2)

    def scale(self, sign: int) -> Float[Tensor, " lm"]:
        r""":math:`\gamma` for each component of a sector of the result; 0 if missing."""
        return self.sectors.component(
            sign, {l: v for (s, l), v in self._scales.items() if s == sign}
        )

    def path_coefficients(self) -> dict[DegreePath, float]:
        r"""The factor :math:`\gamma \kappa \alpha \beta` of ``wigner_3j`` for every path."""
        return {
            p: self._scales[p.sign3, p.l3]
            * self.coupling(p.l1, p.l2, p.l3)
            * self._scales1[p.l1]
            * self._scales2[p.l2]
            for p in self.paths
        }

    def dense_coefficients(
        self, weight: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "in1 in2 out"]:
        """As :meth:`TensorProduct.dense_coefficients`: the sum in the docstring, path by path."""
        a, b, c = self.channels.factors(self._definition_weight(weight))
        at1, at2, at = (_positions(s) for s in (self.sectors1, self.sectors2, self.sectors))
        row1, row2, row = (
            {key: n for n, key in enumerate(s.rows)}
            for s in (self.sectors1, self.sectors2, self.sectors)
        )
        shape = (self.irreps_in1.dim, self.irreps_in2.dim, self.irreps_out.dim)
        out = torch.zeros(shape, dtype=torch.float64)
        for p, coefficient in self.path_coefficients().items():
            key1, key2, key = (p.sign1, p.l1), (p.sign2, p.l2), (p.sign3, p.l3)
            mixed = (a[row1[key1]][:, None] * b[row2[key2]]) @ c[row[key]]
            coupled = coefficient * wigner_3j(p.l1, p.l2, p.l3)
            # [u, i, v, j, w, k]
            block = mixed[:, None, :, None, :, None] * coupled[:, None, :, None, :]
            block = block.flatten(4, 5).flatten(2, 3).flatten(0, 1)
            out[at1[key1][:, None, None], at2[key2][:, None], at[key]] += block
        return out

    def multiply(
        self,
        x1: Float[Tensor, "rows in1"],
        x2: Float[Tensor, "rows in2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows out"]:
        stacks = self._product(self.sectors1.split(x1), self.sectors2.split(x2), weight)
        return self.sectors.join(stacks)

    def multiply_spherical(
        self,
        x1: Float[Tensor, "rows lm1 channels1"],
        x2: Float[Tensor, "rows lm2 channels2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows lm channels"]:
        z, _ = self._product((x1, None), (x2, None), weight)
        assert z is not None
        return z

    def forward_sectors(
        self, x1: Stacks, x2: Stacks, weight: Float[Tensor, "*batch weights"] | None = None
    ) -> Stacks:
        """Product of pairs of spherical tensors, natural and pseudo; otherwise as :meth:`forward`.

        Args:
            x1: ``(natural, pseudo)``, each ``[..., (l_max + 1)**2, channels]`` with the highest
                degree of its sector, None for a sector that ``irreps_in1`` lacks. Components of
                degrees that are missing in between do not matter.
            x2: the same for ``irreps_in2``.
            weight: as for :meth:`forward`.

        Returns:
            The same for ``irreps_out``.

        Raises:
            EquivError: a stack is missing, superfluous or has another shape; or as :meth:`forward`.
        """
        given1 = _check_stacks("x1", x1, self.sectors1, self.irreps_in1)
        given2 = _check_stacks("x2", x2, self.sectors2, self.irreps_in2)
        parts, weight, batch = self._rows_of_parts(given1, given2, weight, 2)
        rows1, rows2 = parts[: len(given1)], parts[len(given1) :]
        z = self._product(_as_stacks(x1, rows1), _as_stacks(x2, rows2), weight)
        natural, pseudo = (None if t is None else t.reshape(*batch, *t.shape[1:]) for t in z)
        return natural, pseudo

    def _product(self, x1: Stacks, x2: Stacks, weight: Tensor | None) -> Stacks:
        x1, x2 = self.channels.before(x1, x2, weight)
        return self.channels.after(self.couple(x1, x2), weight)

    def _all_paths(self, in1: Sectors, in2: Sectors) -> Iterator[DegreePath]:
        for sign1, l1 in in1.rows:
            for sign2, l2 in in2.rows:
                for l3 in range(abs(l1 - l2), l1 + l2 + 1):
                    odd = (l1 + l2 + l3) % 2
                    if (self.couples_odd or not odd) and self.coupling(l1, l2, l3):
                        yield DegreePath(l1, sign1, l2, sign2, l3, sign1 * sign2 * (-1) ** odd)

    def _check_reached(
        self, out: Irreps, in1: Irreps, in2: Irreps, reached: list[tuple[int, int]]
    ) -> None:
        possible = [irrep_of(l, sign) for l, sign in reached]
        missed = sorted({ir for mul, ir in out if mul} - set(possible))
        if missed:
            why = (
                ""
                if self.couples_odd
                else " It couples degrees with even l1 + l2 + l3 only;"
                " 'clebsch_gordan', 'matrix' and 'vector_signal' couple odd ones too."
            )
            raise EquivError(
                f"irreps_out: {type(self).__name__} cannot reach {', '.join(map(str, missed))} "
                f"from '{in1}' x '{in2}', only {', '.join(map(str, possible)) or 'nothing'}.{why}"
            )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {len(self.paths)} paths"


def _channels(
    mode: ChannelMode | None, in1: Sectors, in2: Sectors, out: Sectors, weighted: bool, rank: int
) -> Channels:
    c1, c2, c = in1.channels, in2.channels, out.channels
    fits = {"uuu": c1 == c2 == c, "uvu": c2 == 1 and c1 == c, "uvv": c1 == 1 and c2 == c}
    if mode is not None and mode not in get_args(ChannelMode):
        raise EquivError(f"mode: expected one of {', '.join(get_args(ChannelMode))}, got {mode!r}")
    if mode == "uvw":
        if not weighted:
            raise EquivError("mode: 'uvw' needs weights to mix channels, got weighted=False")
        return ChannelMixing(in1, in2, out, rank)
    if not any(fits.values()) if mode is None else not fits[mode]:
        raise EquivError(
            f"mode {mode or 'uuu, uvu or uvv'} does not fit {c1} channels of irreps_in1, {c2} of "
            f"irreps_in2 and {c} of irreps_out: 'uuu' needs three equal numbers, 'uvu' one channel "
            "in irreps_in2 and two equal numbers; mode='uvw' mixes any"
        )
    return (DegreeWeights if weighted else PlainChannels)(in1, in2, out)


def _positions(sectors: Sectors) -> dict[tuple[int, int], Tensor]:
    """Where the components of an irrep are in the flat layout, channel by channel."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    start = 0
    for sign, l, first, mul in sectors.terms:
        for channel in range(mul):
            at = start + channel * (2 * l + 1)
            found.setdefault((sign, l), []).append((first + channel, at))
        start += mul * (2 * l + 1)
    return {
        (sign, l): torch.tensor([at + m for _, at in sorted(starts) for m in range(2 * l + 1)])
        for (sign, l), starts in found.items()
    }


def _check_stacks(name: str, x: Stacks, sectors: Sectors, irreps: Irreps) -> list[Tensor]:
    given = []
    for which, sign in zip(("natural", "pseudo"), SIGNS, strict=True):
        dim, t = (sectors.l_max(sign) + 1) ** 2, stack(x, sign)
        came = None if t is None else tuple(t.shape)
        expected = f"[..., {dim}, {sectors.channels}]" if dim else "None"
        if (came is None) != (dim == 0) or (
            t is not None and (t.ndim < 2 or t.shape[-2:] != (dim, sectors.channels))
        ):
            raise EquivError(
                f"{name}: expected {expected} for the {which} part of '{irreps}', got {came}"
            )
        if t is not None:
            given.append(t)
    return given


def _as_stacks(pattern: Stacks, parts: list[Tensor]) -> Stacks:
    rest = iter(parts)
    natural, pseudo = (None if t is None else next(rest) for t in pattern)
    return natural, pseudo
