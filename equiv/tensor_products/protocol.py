r"""What every tensor product of this package offers."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiv.constants import ExactConstants
from equiv.errors import EquivError
from equiv.so3 import (
    Irreps,
    flat_from_spherical,
    parse_irreps,
    spherical_from_flat,
    spherical_shape,
)


class TensorProduct(ExactConstants):
    r"""An equivariant bilinear map of two irreps tensors, with weights.

    .. math::
        z_k = \sum_{ij} K_{kij}(w)\, x_i\, y_j, \qquad
        z(D_1(R)\, x,\, D_2(R)\, y) = D_\text{out}(R)\, z(x, y) \quad \forall R \in O(3)

    This is the base of every method. ``irreps_in1``, ``irreps_in2`` and ``irreps_out`` say how
    :math:`x`, :math:`y` and :math:`z` transform; every irrep of ``irreps_out`` is really filled.
    :meth:`dense_coefficients` is the definition of :math:`K`, computed apart from the fast path,
    and :func:`equiv.tensor_products.measured_coefficients` what the fast path really does: they
    agree for every method, and two methods are the same map if their :math:`K` agree.

    Two layouts are offered. :meth:`forward` takes e3nn's flat layout and any irreps.
    :meth:`forward_spherical` takes channels-last spherical tensors ``[..., (l_max + 1)**2,
    channels]``, the layout inside models: message passing and many-body products call it, so that
    no transposition happens between layers. It exists if all irreps have natural parity and one
    multiplicity (:func:`equiv.so3.spherical_shape`).

    To add a method, derive a class, pass irreps and ``weight_numel`` to this constructor, implement
    :meth:`multiply` and :meth:`dense_coefficients` (and :meth:`multiply_spherical` if it is faster
    than converting), and enter the class in ``equiv.tensor_products.choice``. Register mathematical
    constants with ``register_constant``: they then follow every change of dtype exactly.

    Args:
        irreps_in1: irreps of the first argument.
        irreps_in2: irreps of the second argument.
        irreps_out: irreps of the result.
        weight_numel: number of weights :math:`w`; 0 for a map without.
        internal_weights: whether the module owns its weights, a parameter ``weight`` of independent
            standard normal numbers. If not, they are passed to each call: one vector for all rows,
            or one for each row.
    """

    def __init__(
        self,
        irreps_in1: str | Irreps,
        irreps_in2: str | Irreps,
        irreps_out: str | Irreps,
        *,
        weight_numel: int,
        internal_weights: bool,
    ) -> None:
        super().__init__()
        self.irreps_in1 = parse_irreps(irreps_in1, "irreps_in1")
        self.irreps_in2 = parse_irreps(irreps_in2, "irreps_in2")
        self.irreps_out = parse_irreps(irreps_out, "irreps_out")
        # Plain numbers for the calls: torch.compile cannot trace through e3nn's irreps.
        self._shapes = tuple(
            tuple((mul, ir.dim) for mul, ir in irreps)
            for irreps in (self.irreps_in1, self.irreps_in2, self.irreps_out)
        )
        self._sizes = tuple(sum(mul * dim for mul, dim in shape) for shape in self._shapes)
        self._spherical_shapes = tuple(
            map(_spherical_tensor_shape, (self.irreps_in1, self.irreps_in2, self.irreps_out))
        )
        self.weight_numel = weight_numel
        self.internal_weights = internal_weights and weight_numel > 0
        if self.internal_weights:
            self.weight = nn.Parameter(torch.randn(weight_numel))

    @abstractmethod
    def multiply(
        self,
        x1: Float[Tensor, "rows in1"],
        x2: Float[Tensor, "rows in2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows out"]:
        """The product of flat rows; arguments are checked. ``weight`` has 1 row if it is shared."""
        raise NotImplementedError

    def dense_coefficients(
        self, weight: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "in1 in2 out"]:
        r"""The definition of this map as one array, :math:`z_k = \sum_{ij} K_{ijk}\, x_i\, y_j`.

        Flat components in the order of the irreps. Computed from coupling coefficients, never
        through the fast path, which is held against it. For small products: memory is the product
        of the three dimensions.

        Args:
            weight: weights shared by all rows; default the internal ones.

        Returns:
            A new float64 tensor on the CPU.

        Raises:
            EquivError: the weights are missing or too many.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define its coefficients")

    def _definition_weight(self, weight: Tensor | None) -> Float[Tensor, " weights"] | None:
        """The weights of a dense definition, checked, in float64 on the CPU."""
        if weight is None and self.internal_weights:
            weight = self.weight
        if weight is not None:
            weight = weight.detach().to(device="cpu", dtype=torch.float64)
        if (() if weight is None else tuple(weight.shape)) not in {
            (self.weight_numel,),
            *([()] if self.weight_numel == 0 else []),
        }:
            raise EquivError(
                f"{type(self).__name__}: dense_coefficients needs weights [{self.weight_numel}], "
                f"got {'none' if weight is None else f'shape {tuple(weight.shape)}'}"
            )
        return weight

    def multiply_spherical(
        self,
        x1: Float[Tensor, "rows lm1 channels1"],
        x2: Float[Tensor, "rows lm2 channels2"],
        weight: Float[Tensor, "rows_or_1 weights"] | None,
    ) -> Float[Tensor, "rows lm channels"]:
        """The same for spherical tensors; here by conversion, which subclasses can avoid."""
        flat1 = flat_from_spherical(x1, self.irreps_in1)
        flat2 = flat_from_spherical(x2, self.irreps_in2)
        return spherical_from_flat(self.multiply(flat1, flat2, weight), self.irreps_out)

    def forward(
        self,
        x1: Float[Tensor, "*batch in1"],
        x2: Float[Tensor, "*batch in2"],
        weight: Float[Tensor, "*batch weights"] | None = None,
    ) -> Float[Tensor, "*batch out"]:
        """Product of flat irreps tensors; leading shapes broadcast.

        Args:
            x1: last axis ``irreps_in1.dim``.
            x2: last axis ``irreps_in2.dim``.
            weight: ``[weight_numel]`` shared by all rows, or with a leading shape one per row;
                default the internal weights.

        Raises:
            EquivError: a shape or dtype does not fit, or the weights are missing.
        """
        dim1, dim2, dim = self._sizes
        _check_argument("x1", x1, (dim1,), self.irreps_in1)
        _check_argument("x2", x2, (dim2,), self.irreps_in2)
        rows1, rows2, weight, batch = self._rows(x1, x2, weight, 1)
        return self.multiply(rows1, rows2, weight).reshape(*batch, dim)

    def forward_spherical(
        self,
        x1: Float[Tensor, "*batch lm1 channels1"],
        x2: Float[Tensor, "*batch lm2 channels2"],
        weight: Float[Tensor, "*batch weights"] | None = None,
    ) -> Float[Tensor, "*batch lm channels"]:
        """Product of channels-last spherical tensors, otherwise as :meth:`forward`.

        Raises:
            EquivError: in addition, if one of the irreps is no spherical tensor.
        """
        shape1, shape2, shape = self._spherical_shapes
        if shape1 is None or shape2 is None or shape is None:
            for name in ("irreps_in1", "irreps_in2", "irreps_out"):
                spherical_shape(getattr(self, name), name)  # raises, and says why
            raise AssertionError("unreachable")
        _check_argument("x1", x1, shape1, self.irreps_in1)
        _check_argument("x2", x2, shape2, self.irreps_in2)
        rows1, rows2, weight, batch = self._rows(x1, x2, weight, 2)
        return self.multiply_spherical(rows1, rows2, weight).reshape(*batch, *shape)

    def _rows(
        self, x1: Tensor, x2: Tensor, weight: Tensor | None, trailing: int
    ) -> tuple[Tensor, Tensor, Tensor | None, torch.Size]:
        """Bring the leading shapes to one axis of rows."""
        w = self.weight if weight is None and self.internal_weights else weight
        if (  # the usual case: nothing to convert, nothing to broadcast
            x1.ndim == x2.ndim == trailing + 1
            and x1.shape[0] == x2.shape[0]
            and x1.dtype is x2.dtype
            and w is not None
            and w.ndim == 1
            and w.dtype is x1.dtype
            and w.shape[0] == self.weight_numel
        ):
            return x1, x2, w.unsqueeze(0), x1.shape[:1]
        (x1, x2), weight, batch = self._rows_of_parts([x1], [x2], weight, trailing)
        return x1, x2, weight, batch

    def _rows_of_parts(
        self, x1: Sequence[Tensor], x2: Sequence[Tensor], weight: Tensor | None, trailing: int
    ) -> tuple[list[Tensor], Tensor | None, torch.Size]:
        """The same for arguments in several parts."""
        if weight is None:
            weight = self.weight if self.internal_weights else None
        like = x1[0]
        if any(x.dtype != like.dtype for x in (*x1, *x2, *([] if weight is None else [weight]))):
            raise EquivError(
                f"{type(self).__name__}: x1 is {like.dtype}, x2 is {x2[0].dtype} and the weights "
                f"are {None if weight is None else weight.dtype}; convert them, or the module with "
                f".to({like.dtype}), to one dtype"
            )
        if (weight.shape[-1:].numel() if weight is not None else 0) != self.weight_numel:
            raise EquivError(
                f"{type(self).__name__}: expected {self.weight_numel} weights "
                f"(weight[..., {self.weight_numel}]), got "
                f"{'none' if weight is None else f'shape {tuple(weight.shape)}'}"
            )
        leads = [x.shape[:-trailing] for x in (*x1, *x2)]
        lead_weight = weight.shape[:-1] if weight is not None else ()
        try:
            batch = torch.broadcast_shapes(*leads, lead_weight)
        except RuntimeError as error:
            raise EquivError(
                f"{type(self).__name__}: leading shapes {tuple(leads[0])} of x1, "
                f"{tuple(leads[-1])} of x2 and {tuple(lead_weight)} of weight do not broadcast"
            ) from error
        rows = math.prod(batch)
        parts = [
            x.expand(*batch, *x.shape[-trailing:]).reshape(rows, *x.shape[-trailing:])
            for x in (*x1, *x2)
        ]
        if weight is not None:
            if weight.ndim == 1:
                weight = weight.unsqueeze(0)
            else:
                weight = weight.expand(*batch, -1).reshape(rows, self.weight_numel)
        return parts, weight, batch

    def extra_repr(self) -> str:
        weights = (
            f"{self.weight_numel} {'internal' if self.internal_weights else 'external'} weights"
        )
        return f"{self.irreps_in1} x {self.irreps_in2} -> {self.irreps_out}, {weights}"


def _check_argument(name: str, x: Tensor, shape: tuple[int, ...], irreps: Irreps) -> None:
    if x.shape[-len(shape) :] != shape:
        expected = ", ".join(map(str, shape))
        raise EquivError(
            f"{name}: expected shape [..., {expected}] for '{irreps}', got {tuple(x.shape)}"
        )


def _spherical_tensor_shape(irreps: Irreps) -> tuple[int, int] | None:
    try:
        l_max, channels = spherical_shape(irreps)
    except EquivError:
        return None
    return (l_max + 1) ** 2, channels
