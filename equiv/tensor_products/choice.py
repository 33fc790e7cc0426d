"""The one place where tensor products are chosen by name."""

import inspect
from typing import Any

from equiv.choices import choose
from equiv.errors import EquivError
from equiv.so3 import Irreps
from equiv.tensor_products.auto import SAME_MAP, Candidate, fastest
from equiv.tensor_products.clebsch_gordan import ClebschGordanTensorProduct
from equiv.tensor_products.gaunt_fourier import GauntFourierTensorProduct
from equiv.tensor_products.gaunt_grid import GauntGridTensorProduct
from equiv.tensor_products.matrix import MatrixTensorProduct
from equiv.tensor_products.paths import Instructions, IrrepNormalization, Mode, PathNormalization
from equiv.tensor_products.protocol import TensorProduct
from equiv.tensor_products.reference import ReferenceTensorProduct
from equiv.tensor_products.so2 import SO2TensorProduct
from equiv.tensor_products.vector_signal import VectorSignalTensorProduct

TENSOR_PRODUCTS: dict[str, type[TensorProduct]] = {
    "clebsch_gordan": ClebschGordanTensorProduct,
    "reference": ReferenceTensorProduct,
    "gaunt_grid": GauntGridTensorProduct,
    "gaunt_fourier": GauntFourierTensorProduct,
    "matrix": MatrixTensorProduct,
    "vector_signal": VectorSignalTensorProduct,
    "so2": SO2TensorProduct,
}
"""Tensor products by the name that ``method=`` takes."""


def tensor_product(
    irreps_in1: str | Irreps,
    irreps_in2: str | Irreps,
    irreps_out: str | Irreps | None = None,
    *,
    method: str = "clebsch_gordan",
    mode: Mode | None = None,
    internal_weights: bool = True,
    instructions: Instructions | None = None,
    irrep_normalization: IrrepNormalization | None = None,
    path_normalization: PathNormalization | None = None,
    weighted: bool | None = None,
    rank: int | None = None,
    grid: str | None = None,
    transform: str | None = None,
    spin: int | None = None,
    map: str | None = None,
    autotune: int | None = None,
) -> TensorProduct:
    r"""Tensor product of two irreps tensors by the named method.

    .. math::
        z_k = \sum_{ij} K_{ijk}(w)\, x_i\, y_j

    ==================== ==================================================== ======== ==========
    method               map                                                  paths    cost in L
    ==================== ==================================================== ======== ==========
    ``clebsch_gordan``   every path has its own weight; e3nn's product        all      L^6
    ``reference``        the same, as one dense array to read and test        all
    ``gaunt_grid``       functions on the sphere, multiplied on a grid        even     L^4 .. L^3
    ``gaunt_fourier``    the same, by Fourier series (for comparison)         even     L^3
    ``matrix``           spherical tensors as matrices                        all [1]_ L^4
    ``vector_signal``    the Gaunt product, and the bracket of gradients      all      L^4
    ``so2``              ``clebsch_gordan`` with the harmonics of an edge     all      L^3
    ==================== ==================================================== ======== ==========

    *Even* paths have even :math:`l_1 + l_2 + l_3`; they lead from natural parity to natural parity.
    The first two are the same map, :class:`PathTensorProduct`; the Gaunt methods are the same map,
    :class:`GauntTensorProduct`, with weights per degree. Those classes explain the arguments; an
    argument that a method does not know is an error. ``so2`` is the map of ``clebsch_gordan`` for a
    second argument that is the spherical harmonics of vectors, and takes no other.

    ``method="auto"`` takes the fastest method for the map that ``map`` names, and never another
    map: from a measured table (:data:`equiv.tensor_products.auto.SAME_MAP`), or by timing the
    candidates if ``autotune`` says with how many rows.

    .. [1] but for those whose 6j symbol vanishes by accident.

    Args:
        irreps_in1: irreps of the first argument.
        irreps_in2: irreps of the second argument.
        irreps_out: irreps of the result; default (for products of spherical tensors) all that can
            be reached.
        method: see above.
        mode: how channels meet.
        internal_weights: whether the module owns its weights.
        instructions: the paths (``clebsch_gordan``, ``reference``).
        irrep_normalization: likewise.
        path_normalization: likewise.
        weighted: whether there are weights (spherical tensors).
        rank: channels inside, in mode ``"uvw"`` (spherical tensors).
        grid: an exact grid by name (``gaunt_grid``).
        transform: how Fourier series are transformed (``gaunt_fourier``).
        spin: size of the matrices (``matrix``).
        map: which map ``method="auto"`` is to compute: ``"clebsch_gordan"`` (default),
            ``"gaunt"``, ``"matrix"`` or ``"vector_signal"``.
        autotune: for ``method="auto"``, a number of rows with which the candidates are timed here
            and now, instead of taking the one of the table.

    Raises:
        EquivError: ``method`` is unknown (the message lists the methods and names the nearest), or
            does not take one of the arguments, or cannot reach an output.

    >>> product = tensor_product("8x0e + 8x1o", "0e + 1o", "8x0e + 8x1o")
    >>> product(torch.ones(5, 32), torch.ones(5, 4)).shape
    torch.Size([5, 32])
    """
    options = dict(
        irreps_out=irreps_out,
        mode=mode,
        instructions=instructions,
        irrep_normalization=irrep_normalization,
        path_normalization=path_normalization,
        weighted=weighted,
        rank=rank,
        grid=grid,
        transform=transform,
        spin=spin,
        internal_weights=internal_weights,
    )
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if method != "auto":
        if map is not None or autotune is not None:
            raise EquivError(
                f"tensor_product: map and autotune are for method='auto', got method={method!r}"
            )
        return _build(Candidate(method), irreps_in1, irreps_in2, given)
    candidates = choose(SAME_MAP, map or "clebsch_gordan", "map")
    best = candidates[0]
    if autotune is not None:
        best, _ = fastest(
            candidates, lambda c: _build(c, irreps_in1, irreps_in2, given), rows=autotune
        )
    return _build(best, irreps_in1, irreps_in2, given)


def _build(
    candidate: Candidate,
    irreps_in1: str | Irreps,
    irreps_in2: str | Irreps,
    given: dict[str, Any],
) -> TensorProduct:
    method = candidate.method
    kind = choose(TENSOR_PRODUCTS, method, "method")
    given = {**given, **candidate.options}
    known = inspect.signature(kind).parameters
    foreign = sorted(given.keys() - known.keys())
    if foreign:
        takes = [key for key in known if key not in ("irreps_in1", "irreps_in2")]
        raise EquivError(
            f"tensor_product: method {method!r} does not take {', '.join(foreign)}; "
            f"it takes {', '.join(takes)}"
        )
    if "irreps_out" not in given and known["irreps_out"].default is inspect.Parameter.empty:
        raise EquivError(
            f"irreps_out: method {method!r} needs it; say which irreps the result should have"
        )
    return kind(irreps_in1, irreps_in2, **given)
