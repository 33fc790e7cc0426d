r"""The tensor product with the spherical harmonics of an edge, taken in the frame of the edge."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from equiv.errors import EquivError
from equiv.so3 import (
    Irreps,
    flat_from_spherical,
    parse_irreps,
    spherical_from_flat,
    spherical_shape,
    wigner_3j,
)
from equiv.so3.frames import WignerMatrices, edge_rotations
from equiv.tensor_products.paths import (
    Instructions,
    IrrepNormalization,
    Mode,
    PathNormalization,
    PathTensorProduct,
)

Frames = Sequence[Float[Tensor, "*batch m m"]]
"""Wigner matrices :math:`D^0, D^1, \\dots` of the frame of every edge."""


class SO2TensorProduct(PathTensorProduct):
    r"""The Clebsch-Gordan product with an edge's harmonics, in :math:`O(L^3)` per channel.

    .. math::
        z = D(R)\, M\, D(R)^\mathsf{T} x, \qquad
        M_{(l_3 m)(l_1 m_1)} = \sum_{l_2} \sqrt{\alpha}\; W_{l_1 l_2 l_3}\, \sqrt{2 l_2 + 1}\;
        w^{(l_1 l_2 l_3)}_{m_1\, 0\, m}, \qquad R\, e_y = \hat r

    This is the map of :class:`PathTensorProduct`, with the same weights in the same order, for a
    second argument :math:`y_{l_2} = Y_{l_2}(\hat r)` (``component`` normalisation): in a frame
    whose polar axis is the edge only :math:`m_2 = 0` of :math:`Y_{l_2}` is not zero, and then only
    :math:`|m_1| = |m|` couple. For each pair :math:`(l_1, l_3)` with their parities the degrees
    :math:`l_2` that parity allows have one oddness of :math:`l_1 + l_2 + l_3`, so the pair is
    either

    - even: :math:`\tilde z_{\pm m} = W_m\, \tilde x_{\pm m}`, :math:`m = 0 \dots \min(l_1, l_3)`,
    - or odd: :math:`\tilde z_{\pm m} = \pm W_m\, \tilde x_{\mp m}`,
      :math:`m = 1 \dots \min(l_1, l_3)`: natural parity to pseudo parity or back.

    With all :math:`l_2 \le l_1 + l_3` there are as many path weights as :math:`W_m`, so nothing is
    restricted. Convolutions that use both kinds between tensors of one parity (eSCN) commute with
    rotations, but not with reflections. (Passaro and Zitnick 2023, "Reducing SO(3) convolutions to
    SO(2)".)

    The result does not depend on how the frame is turned about the edge, and so it is as smooth in
    :math:`\hat r` as the harmonics: all derivatives exist everywhere, the poles included
    (:func:`equiv.so3.frames.edge_rotations`). An edge of length zero has no frame: for it only
    scalars meet, :math:`z_0 = W_{000}\, x_0`, and gradients with respect to it vanish.

    The argument ``x2`` of a call must be :func:`equiv.so3.spherical_harmonics` of the edges; of it
    only degree 1, the direction, is read, and :math:`Y_0` counts as 1 everywhere. If several
    products share the edges, compute the frames once: :meth:`frames` and :meth:`in_frames`.

    Cost per edge and channel, :math:`L` the highest degree: :math:`\tfrac{8}{3} L^3` multiply-adds
    for the two rotations, :math:`\tfrac{2}{3} L^3` for :math:`M` in mode uvu; per edge
    :math:`12 L^4` for the frames.

    Args:
        irreps_in1: irreps of the features, natural or pseudo.
        irreps_in2: the harmonics, such as ``"0e + 1o + 2e"``: natural parity, one channel each, 1o
            among them (unless it is 0e alone).
        irreps_out: irreps of the result.
        mode: ``"uvu"``, one weight per path and channel, or ``"uvw"``, channels mixed.
        instructions: see :class:`PathTensorProduct`; all of one mode.
        irrep_normalization: see :class:`PathTensorProduct`.
        path_normalization: see :class:`PathTensorProduct`.
        internal_weights: see :class:`TensorProduct`.

    Raises:
        EquivError: ``irreps_in2`` are not harmonics, the mode is another one, or as
            :class:`PathTensorProduct`.
    """

    def __init__(
        self,
        irreps_in1: str | Irreps,
        irreps_in2: str | Irreps,
        irreps_out: str | Irreps,
        *,
        mode: Mode = "uvu",
        instructions: Instructions | None = None,
        irrep_normalization: IrrepNormalization = "component",
        path_normalization: PathNormalization = "element",
        internal_weights: bool = True,
    ) -> None:
        self._direction = _first_of_degree_one(parse_irreps(irreps_in2, "irreps_in2"))
        super().__init__(
            irreps_in1,
            irreps_in2,
            irreps_out,
            mode=mode,
            instructions=instructions,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
            internal_weights=internal_weights,
        )
        modes = {path.mode for path in self.instructions}
        if not (modes <= {"uvu"} or modes <= {"uvw"}):
            raise EquivError(
                f"so2: all paths must have mode uvu or all uvw, got {', '.join(sorted(modes))}; "
                "method='clebsch_gordan' takes any"
            )
        self.mode = modes.pop() if modes else mode
        self._l1 = tuple(ir.l for _, ir in self.irreps_in1)
        self._l3 = tuple(ir.l for _, ir in self.irreps_out)
        self.l_max = max(self._l1 + self._l3, default=0)
        self.wigner = WignerMatrices(self.l_max)
        # between scalar features, or with the scalar harmonic alone, every frame is as good
        self._turns = self.l_max > 0 and any(ir.l for _, ir in self.irreps_in2)
        # numbers of the paths from input term i to output term o, and whether they are odd
        self._pairs: dict[tuple[int, int], list[int]] = {}
        for p, path in enumerate(self.instructions):
            if all(mul for mul, _ in self.terms[p]):
                self._pairs.setdefault((path.in1, path.out), []).append(p)
        self._odd = {pair: self._is_odd(paths[0]) for pair, paths in self._pairs.items()}
        for (i, o), paths in self._pairs.items():
            factors = torch.stack([self._frame_coupling(p) for p in paths], dim=1)
            self.register_constant(f"coupling_{i}_{o}", factors)  # [m, path]

    def _is_odd(self, p: int) -> bool:
        return sum(ir.l for _, ir in self.terms[p]) % 2 == 1

    def _frame_coupling(self, p: int) -> Float[Tensor, " m"]:
        """Factor of the path at component m of the output, -min(l1, l3) <= m <= min(l1, l3)."""
        (_, ir1), (_, ir2), (_, ir) = self.terms[p]
        w = self.coefficients[p] * math.sqrt(ir2.dim) * wigner_3j(ir1.l, ir2.l, ir.l)[:, ir2.l]
        low, sign = min(ir1.l, ir.l), -1 if self._is_odd(p) else 1
        return torch.stack([w[ir1.l + sign * m, ir.l + m] for m in range(-low, low + 1)])

    def frames(self, vectors: Float[Tensor, "*batch 3"]) -> list[Float[Tensor, "*batch m m"]]:
        """Wigner matrices of the frames of edges, for :meth:`in_frames`.

        Args:
            vectors: of the edges, in the dtype of the module; their length does not matter.
        """
        return self.wigner(edge_rotations(vectors))

    def in_frames(
        self,
        x: Float[Tensor, "*batch lm channels"],
        frames: Frames,
        weight: Float[Tensor, "*batch weights"] | None = None,
    ) -> Float[Tensor, "*batch lm_out channels_out"]:
        """The product of spherical tensors, as :meth:`forward_spherical`, in given frames.

        Args:
            x: spherical tensor, one for each edge.
            frames: what :meth:`frames` of this product returned, or of another one with at least
                its degrees; the leading shape is that of ``x``.
            weight: ``[weight_numel]`` shared by all edges, or one vector for each; default the
                internal weights.

        Raises:
            EquivError: the frames have too few degrees, or as :meth:`forward_spherical`.
        """
        if len(frames) <= self.l_max:
            raise EquivError(
                f"in_frames: the features have degree {self.l_max}, but the frames only degrees "
                f"up to {len(frames) - 1}; make them with .frames() of the product of the highest "
                "degree"
            )
        shape, _, shape_out = self._spherical_shapes
        if shape is None or shape_out is None:
            spherical_shape(self.irreps_in1, "irreps_in1")  # one of the two raises and says why
            spherical_shape(self.irreps_out, "irreps_out")
        elif tuple(x.shape[-2:]) != shape:
            raise EquivError(
                f"in_frames: expected x[..., {shape[0]}, {shape[1]}] for '{self.irreps_in1}', "
                f"got {tuple(x.shape)}"
            )
        lead = torch.broadcast_shapes(*(d.shape[:-2] for d in frames))
        placeholder = x.new_zeros(*lead, 1, 1)
        x, _, weight, batch = self._rows(x, placeholder, weight, 2)
        rows = [d.expand(*batch, *d.shape[-2:]).reshape(-1, *d.shape[-2:]) for d in frames]
        out = self._spherical(x, rows, weight)
        return out.reshape(*batch, *out.shape[1:])

    def multiply(
        self,
        x1: Float[Tensor, "rows in1"],
        x2: Float[Tensor, "rows in2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows out"]:
        first = self._direction
        frames = self.frames(x2[:, first : first + 3]) if self._turns else ()
        return self._flat(x1, frames, weight)

    def multiply_spherical(
        self,
        x1: Float[Tensor, "rows lm1 channels1"],
        x2: Float[Tensor, "rows lm2 channels2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows lm channels"]:
        frames = self.frames(x2[:, 1:4, 0]) if self._turns else ()
        return self._spherical(x1, frames, weight)

    def _spherical(
        self,
        x: Float[Tensor, "rows lm channels"],
        frames: Frames,
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows lm_out channels_out"]:
        if not (_one_term_per_degree(self._shapes[0]) and _one_term_per_degree(self._shapes[2])):
            flat = self._flat(flat_from_spherical(x, self.irreps_in1), frames, weight)
            return spherical_from_flat(flat, self.irreps_out)
        blocks = self._multiply(list(x.split([d for _, d in self._shapes[0]], 1)), frames, weight)
        return torch.cat(blocks, dim=1)

    def _flat(
        self,
        x: Float[Tensor, "rows in1"],
        frames: Frames,
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows out"]:
        parts = x.split([mul * dim for mul, dim in self._shapes[0]], dim=1)
        blocks = [
            part.unflatten(1, shape).transpose(1, 2)
            for part, shape in zip(parts, self._shapes[0], strict=True)
        ]
        out = [z.transpose(1, 2).flatten(1) for z in self._multiply(blocks, frames, weight)]
        return torch.cat(out, dim=1) if out else x.new_zeros(x.shape[0], 0)

    def _multiply(
        self,
        x: list[Float[Tensor, "rows m u"]],
        frames: Frames,
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> list[Float[Tensor, "rows m w"]]:
        """Every output term."""
        if self._turns:
            x = [frames[l].mT @ part if l else part for l, part in zip(self._l1, x, strict=True)]
        weights = self._frame_weights(weight, x)
        z = self._mix(x, weights) if self.mode == "uvw" else self._scale(x, weights)
        if not self._turns:
            return z
        return [frames[l] @ part if l else part for l, part in zip(self._l3, z, strict=True)]

    def _frame_weights(
        self, weight: Float[Tensor, "rows_or_1 weights"] | None, x: list[Tensor]
    ) -> dict[tuple[int, int], Float[Tensor, "rows_or_1 m ..."]]:
        """Weights of the components in the frame, W_m, for every pair of terms."""
        sizes = [math.prod(shape) for shape in self.weight_shapes]
        parts = weight.split(sizes, dim=1) if weight is not None else []
        rows = weight.shape[0] if weight is not None else 1
        found = {}
        for (i, o), paths in self._pairs.items():
            own = [
                parts[p] if self.instructions[p].has_weight else x[i].new_ones(rows, x[i].shape[2])
                for p in paths
            ]
            coupling = getattr(self, f"coupling_{i}_{o}")
            w = coupling @ torch.stack(own).flatten(1)  # one matrix product for all rows
            found[i, o] = w.unflatten(1, own[0].shape).transpose(0, 1)
        return found

    def _scale(
        self,
        x: list[Float[Tensor, "rows m u"]],
        weights: dict[tuple[int, int], Float[Tensor, "rows_or_1 m u"]],
    ) -> list[Float[Tensor, "rows m u"]]:
        """Mode uvu in the frame: every channel by itself."""
        sums: list[dict[int, Tensor]] = [{} for _ in self._l3]  # by the highest m
        for (i, o), weight in weights.items():
            l, low = self._l1[i], min(self._l1[i], self._l3[o])
            part = x[i][:, l - low : l + low + 1]
            part = part.flip(1) if self._odd[i, o] else part
            part = weight * part
            sums[o][low] = sums[o][low] + part if low in sums[o] else part
        return [self._nested(o, parts, x) for o, parts in enumerate(sums)]

    def _nested(
        self, o: int, parts: dict[int, Float[Tensor, "rows m u"]], x: list[Tensor]
    ) -> Float[Tensor, "rows m u"]:
        """Sum of blocks of components -low <= m <= low."""
        l, mul = self._l3[o], self._shapes[2][o][0]
        if not parts:
            return x[0].new_zeros(x[0].shape[0], 2 * l + 1, mul)
        lows = sorted(parts)
        z = parts[lows[0]]
        for narrow, low in pairwise([*lows, l]):
            if low > narrow:
                z = pad(z, (0, 0, low - narrow, low - narrow))
            z = z + parts[low] if low in parts and low > narrow else z
        return z

    def _mix(
        self,
        x: list[Float[Tensor, "rows m u"]],
        weights: dict[tuple[int, int], Float[Tensor, "rows_or_1 m uw"]],
    ) -> list[Float[Tensor, "rows m w"]]:
        """Mode uvw in the frame: one matrix product for each m."""
        u, w = ([mul for mul, _ in shape] for shape in (self._shapes[0], self._shapes[2]))
        matrices = {
            (i, o): weight.unflatten(2, (u[i], w[o])) for (i, o), weight in weights.items()
        }  # [rows_or_1, m, u, w]
        zero = [x[0].new_zeros(x[0].shape[0], mul) for mul in w]
        columns = [dict.fromkeys(range(-l, l + 1), zero[o]) for o, l in enumerate(self._l3)]
        for m in range(max(self._l1, default=-1) + 1):
            ins = [i for i, l in enumerate(self._l1) if l >= m]
            outs = [o for o, l in enumerate(self._l3) if l >= m]
            if not outs:
                break
            plus, minus = (torch.cat([x[i][:, self._l1[i] + n] for i in ins], 1) for n in (m, -m))
            pairs = torch.stack([plus, minus] if m else [plus], dim=1)  # [rows, sign, u]
            matrix = self._matrix(matrices, ins, outs, m, x, odd=False)
            if m and any(self._odd.values()):
                pairs = torch.cat([pairs, torch.stack([minus, -plus], dim=1)], dim=2)
                odd = self._matrix(matrices, ins, outs, m, x, odd=True)
                matrix = torch.cat([matrix, odd], dim=1)
            z = _rowwise_matmul(pairs, matrix).split([w[o] for o in outs], dim=2)
            for o, part in zip(outs, z, strict=True):
                columns[o].update({m: part[:, 0], -m: part[:, -1]})
        return [
            torch.stack([parts[m] for m in range(-l, l + 1)], dim=1)
            for l, parts in zip(self._l3, columns, strict=True)
        ]

    def _matrix(
        self,
        matrices: dict[tuple[int, int], Float[Tensor, "rows_or_1 m u w"]],
        ins: list[int],
        outs: list[int],
        m: int,
        x: list[Tensor],
        *,
        odd: bool,
    ) -> Float[Tensor, "rows_or_1 u w"]:
        """Of component m of all inputs to that of all outputs, by the even or the odd pairs."""
        rows = next(iter(matrices.values())).shape[0]

        def block(i: int, o: int) -> Tensor:
            if (i, o) in matrices and self._odd[i, o] == odd:
                return matrices[i, o][:, min(self._l1[i], self._l3[o]) + m]
            return x[0].new_zeros(rows, x[i].shape[2], self._shapes[2][o][0])

        return torch.cat([torch.cat([block(i, o) for o in outs], 2) for i in ins], 1)


def _rowwise_matmul(
    x: Float[Tensor, "rows s a"], weight: Float[Tensor, "rows_or_1 a b"]
) -> Float[Tensor, "rows s b"]:
    """``x[n] @ weight[n]``, as one large product if there is one weight for all rows."""
    if weight.shape[0] == 1:
        return (x.reshape(-1, x.shape[-1]) @ weight[0]).unflatten(0, x.shape[:2])
    return x @ weight


def _one_term_per_degree(shape: Sequence[tuple[int, int]]) -> bool:
    return [dim for _, dim in shape] == list(range(1, 2 * len(shape), 2))


def _first_of_degree_one(harmonics: Irreps) -> int:
    """Where degree 1 starts in the second argument."""
    degrees = [ir.l for _, ir in harmonics]
    wrong = [
        f"{mul_ir}" for mul_ir in harmonics if mul_ir.mul != 1 or mul_ir.ir.p != (-1) ** mul_ir.ir.l
    ]
    if wrong or len(set(degrees)) < len(degrees) or (degrees != [0] and 1 not in degrees):
        raise EquivError(
            "so2: irreps_in2 must be the harmonics of an edge, one channel of each degree with "
            f"natural parity and 1o among them, such as '0e + 1o + 2e'; got '{harmonics}'; "
            "method='clebsch_gordan' takes any irreps"
        )
    return harmonics.slices()[degrees.index(1)].start if 1 in degrees else 0
