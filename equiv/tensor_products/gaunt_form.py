"""Gaunt products with their weights and layouts as one kernel on a grid."""

from equiv.so3 import SphereGrid
from equiv.tensor_products.channels import DegreeWeights, PlainChannels
from equiv.tensor_products.grid_form import GridForm, Places, WeightedGridForm
from equiv.tensor_products.lanes import Components
from equiv.tensor_products.sectors import NATURAL, Sectors
from equiv.tensor_products.spherical import SphericalTensorProduct


def gaunt_form(
    product: SphericalTensorProduct, grid: SphereGrid, *, spherical: bool
) -> GridForm | None:
    """The map of a product of functions on the sphere, from rows to rows.

    Args:
        product: irreps, scales and weights.
        grid: exact for the product.
        spherical: whether rows are spherical tensors, or flat irreps.

    Returns:
        None if the irreps are not all natural, one term for each, or if channels are mixed.
    """
    operands = (product.sectors1, product.sectors2, product.sectors)
    weighted = isinstance(product.channels, DegreeWeights)
    if (
        not (weighted or isinstance(product.channels, PlainChannels))
        or any(some.pseudo for some in operands)
        or any(len(some.terms) != len(some.rows) for some in operands)
    ):
        return None
    channels, places = product.sectors.channels, []
    offsets: list[int] = []
    steps: list[int] = []
    start = 0
    for some in operands:
        places.append(_places(some, channels, spherical, len(offsets) if weighted else None))
        for _ in some.rows:
            offsets.append(start)
            steps.append(int(some.channels == channels))
            start += some.channels
    scales = product.scale1(NATURAL), product.scale2(NATURAL), product.scale(NATURAL)
    if not weighted:
        return GridForm(grid, scales, places, channels)
    weights = Components(tuple(offsets), tuple(steps), product.weight_numel)
    return WeightedGridForm(grid, scales, places, channels, weights)


def _places(some: Sectors, channels: int, spherical: bool, first: int | None) -> Places:
    """Every component of some irreps; the number of the first weight, None without."""
    components, offsets, steps, weights = [], [], [], []
    several, start = some.channels == channels, 0
    for _, l, _, mul in some.terms:
        for m in range(2 * l + 1):
            i = l**2 + m
            components.append(i)
            offsets.append(i * mul if spherical else start + m)
            steps.append((1 if spherical else 2 * l + 1) if several else 0)
            if first is not None:
                weights.append(first + some.natural.index(l))
        start += mul * (2 * l + 1)
    return Places(tuple(components), tuple(offsets), tuple(steps), tuple(weights), start)
