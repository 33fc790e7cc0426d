r"""What a tensor product can express: which irreps interact, and how many maps can be reached."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from equiv.errors import EquivError
from equiv.so3 import Irrep, natural_irreps
from equiv.tensor_products.choice import TENSOR_PRODUCTS, tensor_product
from equiv.tensor_products.paths import PathTensorProduct
from equiv.tensor_products.protocol import TensorProduct
from equiv.tensor_products.sectors import irrep_of
from equiv.tensor_products.spherical import SphericalTensorProduct

Interaction = tuple[Irrep, Irrep, Irrep]
Group = Literal["O(3)", "SO(3)"]


def interactions(product: TensorProduct) -> list[Interaction]:
    r"""The triples of irreps that interact in a product (its *interactability*).

    .. math::
        \{ (\rho_1, \rho_2, \rho_3) : \text{the component } \rho_1 \otimes \rho_2 \to \rho_3
        \text{ of the map is not zero for all weights} \}

    Irreps of the three tensors, without multiplicities, in the order of the product.

    Args:
        product: of any method; for one of unknown kind its dense coefficients with random weights
            are looked at.
    """
    if isinstance(product, PathTensorProduct):
        found = [
            (ir1, ir2, ir)
            for (mul1, ir1), (mul2, ir2), (mul, ir) in product.terms
            if mul1 and mul2 and mul
        ]
    elif isinstance(product, SphericalTensorProduct):
        found = [
            (irrep_of(p.l1, p.sign1), irrep_of(p.l2, p.sign2), irrep_of(p.l3, p.sign3))
            for p in product.paths
        ]
    else:
        found = _measured_interactions(product)
    return list(dict.fromkeys(found))


def expressivity(
    product: TensorProduct | Sequence[Interaction], *, channels: int = 1, group: Group = "O(3)"
) -> int:
    r"""Dimension of the set of maps that a product makes together with linear layers around it.

    .. math::
        \dim \big\{ \mathrm{Lin}_Z \circ T \circ (\mathrm{Lin}_X, \mathrm{Lin}_Y) \big\} =
        \operatorname{rank} \frac{\partial W}{\partial (a, b, c)}, \qquad
        W_{\rho_1 \rho_2 \rho_3} = t_{\rho_1 \rho_2 \rho_3}
        \sum_{r=1}^{R} a_{\rho_1 r}\, b_{\rho_2 r}\, c_{\rho_3 r}

    The inputs and the output have one copy of each irrep :math:`\rho`. Linear layers :math:`a, b`
    lead to :math:`R` channels, a channelwise product :math:`T` with path coefficients :math:`t`
    multiplies them, a linear layer :math:`c` leads back, and :math:`W` are the path weights of the
    whole. The rank of the Jacobian, where :math:`a, b, c` are random, depends only on which
    :math:`t` are not zero. It cannot exceed the number of interactions, which a product with a
    weight for each path (``clebsch_gordan``, ``so2``) reaches with one channel.

    The dimension is algebraic: near almost any point so many path weights can be chosen at will.
    (Xie, Daigavane, Kotak and Smidt 2025, "The price of freedom".)

    Args:
        product: of any method; or the interactions of a channelwise product.
        channels: :math:`R`.
        group: with ``"SO(3)"`` irreps that differ in parity only count as one and share their
            linear layers.

    Raises:
        EquivError: ``channels`` is not positive, or ``group`` is neither.

    >>> product = tensor_product("0e+1o+2e", "0e+1o+2e", "0e+1o+2e", method="gaunt_grid")
    >>> len(interactions(product)), expressivity(product), expressivity(product, channels=2)
    (11, 7, 11)
    """
    if channels < 1:
        raise EquivError(f"expressivity: channels must be positive, got {channels}")
    triples = _labels(
        interactions(product) if isinstance(product, TensorProduct) else product, group
    )
    if isinstance(product, PathTensorProduct):
        return len(triples)
    if not triples:
        return 0
    # a, b and c, one below the other
    keys = dict.fromkeys((which, label) for t in triples for which, label in enumerate(t))
    row = {key: n for n, key in enumerate(keys)}
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(len(row), channels, generator=generator, dtype=torch.float64)
    jacobian = torch.zeros(len(triples), len(row), channels, dtype=torch.float64)
    for n, triple in enumerate(triples):
        a, b, c = (row[key] for key in enumerate(triple))
        jacobian[n, a] = factors[b] * factors[c]
        jacobian[n, b] = factors[a] * factors[c]
        jacobian[n, c] = factors[a] * factors[b]
    return int(torch.linalg.matrix_rank(jacobian.flatten(1)))


def channels_for_all_maps(
    product: TensorProduct | Sequence[Interaction], *, group: Group = "O(3)"
) -> int:
    """Smallest number of channels with which :func:`expressivity` is the number of interactions.

    Args:
        product: see :func:`expressivity`.
        group: see :func:`expressivity`.
    """
    found = interactions(product) if isinstance(product, TensorProduct) else product
    channels, complete = 1, len(_labels(found, group))
    while expressivity(product, channels=channels, group=group) < complete:
        channels += 1
    return channels


@dataclass(frozen=True)
class ExpressivityRow:
    """What a method makes of two spherical tensors.

    Attributes:
        method: name of the method.
        l_max: highest degree of inputs and output, which have one channel and natural parity; the
            output has in addition what the method reaches of the other parity.
        even: interactions with even :math:`l_1 + l_2 + l_3`.
        odd: interactions with odd :math:`l_1 + l_2 + l_3`.
        dimension: expressivity with one channel.
        channels: with how many the expressivity is the number of interactions.
    """

    method: str
    l_max: int
    even: int
    odd: int
    dimension: int
    channels: int


def expressivity_rows(
    degrees: Iterable[int] = range(1, 7), methods: Iterable[str] | None = None
) -> list[ExpressivityRow]:
    """Interactability and expressivity of methods, measured on their modules.

    Args:
        degrees: values of :math:`L`.
        methods: names that :func:`equiv.tensor_products.tensor_product` takes; default all but the
            reference.
    """
    rows = []
    chosen = [m for m in TENSOR_PRODUCTS if m != "reference"] if methods is None else list(methods)
    for l_max in degrees:
        for method in chosen:
            product = _both_parities(method, l_max)
            found = interactions(product)
            odd = sum(sum(ir.l for ir in triple) % 2 for triple in found)
            rows.append(
                ExpressivityRow(
                    method,
                    l_max,
                    len(found) - odd,
                    odd,
                    expressivity(product),
                    channels_for_all_maps(product),
                )
            )
    return rows


def expressivity_table(
    degrees: Iterable[int] = range(1, 7), methods: Iterable[str] | None = None
) -> str:
    """The rows of :func:`expressivity_rows` as text.

    >>> print(expressivity_table([2], ["clebsch_gordan", "gaunt_grid", "vector_signal"]))
     L  method           even paths  odd paths  expressivity  channels for all
     2  clebsch_gordan           11          4            15                 1
     2  gaunt_grid               11          0             7                 2
     2  vector_signal            11          4             9                 2
    """
    lines = [" L  method           even paths  odd paths  expressivity  channels for all"]
    lines += [
        f"{r.l_max:2d}  {r.method:15s}{r.even:12d}{r.odd:11d}{r.dimension:14d}{r.channels:18d}"
        for r in expressivity_rows(degrees, methods)
    ]
    return "\n".join(lines)


def _labels(found: Sequence[Interaction], group: Group) -> list[tuple[Irrep | int, ...]]:
    if group not in get_args(Group):
        raise EquivError(
            f"expressivity: group must be one of {', '.join(get_args(Group))}, got {group!r}"
        )
    by_group = [tuple(ir if group == "O(3)" else ir.l for ir in triple) for triple in found]
    return list(dict.fromkeys(by_group))


def _both_parities(method: str, l_max: int) -> TensorProduct:
    """A product of two natural tensors, with every output up to the degree that it reaches."""
    natural = natural_irreps(l_max, 1)
    second = natural_irreps(2 * l_max, 1) if method == "so2" else natural
    both = "+".join([str(natural), *(str(irrep_of(l, -1)) for l in range(1, l_max + 1))])
    try:
        return tensor_product(natural, second, both, method=method)
    except EquivError:  # even couplings only
        return tensor_product(natural, second, natural, method=method)


def _measured_interactions(product: TensorProduct) -> list[Interaction]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(product.weight_numel, generator=generator, dtype=torch.float64)
    k = product.dense_coefficients(weight if product.weight_numel else None)
    irreps = (product.irreps_in1, product.irreps_in2, product.irreps_out)
    found = []
    for (_, ir1), at1 in zip(irreps[0], irreps[0].slices(), strict=True):
        for (_, ir2), at2 in zip(irreps[1], irreps[1].slices(), strict=True):
            for (_, ir), at in zip(irreps[2], irreps[2].slices(), strict=True):
                block = k[at1, at2, at]
                if block.numel() and block.abs().max() > 1e-12 * k.abs().max():
                    found.append((ir1, ir2, ir))
    return found
