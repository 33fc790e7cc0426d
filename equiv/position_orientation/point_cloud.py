r"""Position-orientation point clouds: orientations that come from the data, exact symmetry."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.nn.cutoff import PolynomialCutoff
from equiv.position_orientation.block import ResidualPerceptron
from equiv.position_orientation.invariants import R2S1Invariants, R3S2Invariants
from equiv.position_orientation.lifting import Channels, Quantities
from equiv.position_orientation.polynomial_kernel import exponents, monomials


@dataclass(frozen=True)
class CloudGraph:
    """Who sees whom among the edges of a graph.

    Point :math:`e` of the cloud is an edge: it stands where the edge ends and looks to where it
    begins.

    Attributes:
        senders: point that sends, for each link.
        receivers: point that receives.
        edges: edge of the graph along which the link runs; the number of edges for links between
            points at one and the same place.
    """

    senders: Int[Tensor, " links"]
    receivers: Int[Tensor, " links"]
    edges: Int[Tensor, " links"]


def cloud_graph(
    senders: Int[Tensor, " edges"], receivers: Int[Tensor, " edges"], num_rows: int
) -> CloudGraph:
    r"""Link all points at :math:`j` to all points at :math:`i` for every edge :math:`j \to i`.

    Points at the same place are linked too, also each with itself. Cost: links number as the cube
    of the neighbours times the atoms.
    """
    device, num_edges = receivers.device, receivers.shape[0]
    order = torch.argsort(receivers, stable=True)  # points, place by place
    counts = torch.bincount(receivers, minlength=num_rows)
    start = torch.cumsum(counts, 0) - counts
    places = torch.arange(num_rows, device=device)
    j, i = torch.cat([senders, places]), torch.cat([receivers, places])
    along = torch.cat([torch.arange(num_edges, device=device), places.new_full((num_rows,), -1)])
    along = torch.where(along < 0, num_edges, along)
    size = counts[j] * counts[i]
    route = torch.repeat_interleave(size)
    within = torch.arange(route.shape[0], device=device) - (torch.cumsum(size, 0) - size)[route]
    a, b = within // counts[i][route], within % counts[i][route]
    return CloudGraph(order[start[j][route] + a], order[start[i][route] + b], along[route])


class CloudBlock(ResidualPerceptron):
    r"""Convolution between the points of a cloud, and a perceptron around a residual connection.

    .. math::
        y_f = \frac{1}{\sqrt{\bar m}} \sum_{e \to f} (\Phi_{ef} W) \odot x_e + \beta

    Args:
        channels: of the features.
        basis: number of functions :math:`\Phi`.
        mean_links: :math:`\bar m`, typical number of points that a point sees.
        widening: of the perceptron.
        layer_scale: see :class:`ResidualPerceptron`.
    """

    def __init__(
        self,
        channels: int,
        basis: int,
        *,
        mean_links: float,
        widening: int = 4,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__(channels, widening=widening, layer_scale=layer_scale)
        self.mean_links = mean_links
        self.weight = nn.Linear(basis, channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Float[Tensor, "points channels"],
        basis: Float[Tensor, "links functions"],
        graph: CloudGraph,
    ) -> Float[Tensor, "points channels"]:
        """The features after the layer."""
        messages = self.weight(basis) * x[graph.senders]
        y = torch.zeros_like(x).index_add(0, graph.receivers, messages)
        return x + self.perceptron(y * self.mean_links**-0.5 + self.bias)


class PointCloudNetwork(nn.Module):
    r"""Message passing between edges, each a point with a position and an orientation.

    Every edge :math:`j \to i` of a graph is a point at :math:`p_i` with the orientation :math:`o =
    \hat r_{ij}` towards :math:`j`. Points exchange messages with weights that are functions of the
    complete invariants of a pair (:class:`equiv.position_orientation.invariants.R3S2Invariants`):

    .. math::
        k_{ef} = \mathrm{MLP}\big(m(r \cdot o_f,\; r \cdot o_e,\; |r|^2,\; o_e \cdot o_f)\big)\;
        f(|r|)\, f(|r_e|), \qquad x_e = E\, (s, v \cdot o, o \cdot T o)

    and results are read out as :math:`s_i = \sum_{e \text{ at } i} f(|r_e|)\, \phi_e / \bar n` and
    :math:`v_i = \sum_e f(|r_e|)\, \phi_e\, o_e / \bar n`. No grid, so every rotation and reflection
    is an exact symmetry; the price are :math:`\bar n^2` links for every edge.

    The window :math:`f` weighs every point by the length of its own edge too, so that points come
    and go smoothly at the cutoff. Lengths are measured in units of the cutoff. An atom without
    neighbours has no points, and all its results are 0.

    Args:
        inputs: what every row brings.
        outputs: what is wanted of every row.
        channels: of the features.
        layers: number of blocks.
        mean_neighbors: :math:`\bar n`.
        cutoff: of the edges, in Angstrom; ``None`` for no window.
        hidden: width of the kernel's first layer.
        basis: number of functions of the kernel.
        degree: of the kernel's polynomials.
        dim: of the space, 2 or 3.
        widening: of the blocks' perceptrons.
        layer_scale: see :class:`ResidualPerceptron`.
    """

    def __init__(
        self,
        *,
        inputs: Channels,
        outputs: Channels,
        channels: int,
        layers: int,
        mean_neighbors: float,
        cutoff: float | None,
        hidden: int = 64,
        basis: int = 64,
        degree: int = 2,
        dim: int = 3,
        widening: int = 4,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        if dim not in (2, 3):
            raise EquivError(f"PointCloudNetwork: dim must be 2 or 3, got {dim}")
        self.inputs, self.outputs, self.channels = inputs, outputs, channels
        self.cutoff, self.degree, self.mean_neighbors = cutoff, degree, mean_neighbors
        self.invariants = R3S2Invariants() if dim == 3 else R2S1Invariants()
        self.exponents = exponents(self.invariants.count, degree)
        self.window = PolynomialCutoff(6)
        self.embedding = nn.Linear(inputs.total, channels, bias=False)
        self.first = nn.Linear(len(self.exponents), hidden)
        self.second = nn.Linear(hidden, basis)
        self.blocks = nn.ModuleList(
            CloudBlock(
                channels,
                basis,
                mean_links=mean_neighbors * (1 + mean_neighbors),
                widening=widening,
                layer_scale=layer_scale,
            )
            for _ in range(layers)
        )
        self.readouts = nn.ModuleList(nn.Linear(channels, outputs.total) for _ in range(layers))

    def forward(
        self,
        vectors: Float[Tensor, "edges dim"],
        senders: Int[Tensor, " edges"],
        receivers: Int[Tensor, " edges"],
        num_rows: int,
        *,
        scalars: Float[Tensor, "rows scalars"] | None = None,
        vectors_in: Float[Tensor, "rows vectors dim"] | None = None,
        tensors_in: Float[Tensor, "rows tensors dim dim"] | None = None,
        graph: CloudGraph | None = None,
    ) -> Quantities:
        """What the network makes of the rows' quantities and the edges' vectors.

        Args:
            vectors: from the receiver to the sender of each edge.
            senders: row in which each edge begins.
            receivers: row in which each edge ends.
            num_rows: number of rows.
            scalars: of the rows.
            vectors_in: of the rows.
            tensors_in: of the rows, symmetric.
            graph: of :func:`cloud_graph`, if it is known already.
        """
        dtype = self.embedding.weight.dtype
        graph = cloud_graph(senders, receivers, num_rows) if graph is None else graph
        vectors = vectors.to(dtype) / (1.0 if self.cutoff is None else self.cutoff)
        length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        o = vectors / length
        weight = torch.ones_like(length) if self.cutoff is None else self.window(length)
        # A link within one place has no length.
        r = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])[graph.edges]
        reach = torch.cat([weight, weight.new_ones(1, 1)])[graph.edges]
        a = self.invariants(r, o[graph.receivers], o[graph.senders])
        gelu = nn.functional.gelu
        basis = gelu(self.second(gelu(self.first(monomials(a, self.exponents)))))
        basis = basis * reach * weight[graph.senders]
        x = self.embedding(self._lifted(o, receivers, scalars, vectors_in, tensors_in))
        read = x.new_zeros(x.shape[0], self.outputs.total)
        for block, readout in zip(self.blocks, self.readouts, strict=True):
            x = block(x, basis, graph)
            read = read + readout(x)
        read = read * weight / (len(self.blocks) * self.mean_neighbors)
        return self._read(read, o, receivers, num_rows)

    def _lifted(
        self,
        o: Tensor,
        receivers: Tensor,
        scalars: Tensor | None,
        vectors_in: Tensor | None,
        tensors_in: Tensor | None,
    ) -> Tensor:
        parts = []
        if scalars is not None:
            parts.append(scalars[receivers])
        if vectors_in is not None:
            parts.append((vectors_in[receivers] @ o.unsqueeze(-1)).squeeze(-1))
        if tensors_in is not None:
            parts.append(torch.einsum("ei,ecij,ej->ec", o, tensors_in[receivers], o))
        if sum(part.shape[1] for part in parts) != self.inputs.total:
            raise EquivError(
                f"PointCloudNetwork: expected {self.inputs}, got "
                f"{[part.shape[1] for part in parts]} channels"
            )
        return torch.cat(parts, -1).to(self.embedding.weight.dtype)

    def _read(self, read: Tensor, o: Tensor, receivers: Tensor, num_rows: int) -> Quantities:
        c = self.outputs
        s, v, t = read.split([c.scalars, c.vectors, c.tensors], -1)
        products = o.unsqueeze(-1) * o.unsqueeze(-2)
        parts = (s, v.unsqueeze(-1) * o.unsqueeze(1), t[:, :, None, None] * products.unsqueeze(1))
        return Quantities(
            *(p.new_zeros(num_rows, *p.shape[1:]).index_add(0, receivers, p) for p in parts)
        )
