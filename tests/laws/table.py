"""Every layer and every model, once: what to build, what to feed it, and how its tensors turn.

A new layer joins all laws with one entry here; ``test_everything_is_in_the_table.py`` fails until
it does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from e3nn import o3
from torch import Tensor, nn

from equiv.graph.blocks import neighbor_blocks
from equiv.hamiltonian import BlockLayout, OrbitalBasis
from equiv.hamiltonian.coupling_paths import PathProduct
from equiv.hamiltonian.degrees import Degrees
from equiv.hamiltonian.irrep_layers import Dense, IrrepLinear, NormGate
from equiv.hamiltonian.messages import Messages
from equiv.hamiltonian.node_layers import PairGeometry as AtomPairs
from equiv.hamiltonian.node_layers import (
    SphericalEmbedding,
    SphericalInteraction,
    VectorialInteraction,
)
from equiv.hamiltonian.pair_layers import DiagonalLayer, DirectPairFeatures, PairLayer
from equiv.hamiltonian.pair_weights import PairInvariants, PairWeights
from equiv.hamiltonian.radial import ExponentialBernstein
from equiv.hamiltonian.readout import BlockReadout
from equiv.long_range import ChebyshevTucker, EwaldSum
from equiv.long_range.charges import (
    EquilibratedCharges,
    FixedCharges,
    LearnedCharges,
    LearnedCoefficients,
    Sites,
)
from equiv.long_range.direct_sum import DirectSum
from equiv.long_range.equilibration import ChargeEquilibration
from equiv.message_passing.attentive_interaction import AttentiveInteraction
from equiv.message_passing.convolution import ClebschGordanConvolution
from equiv.message_passing.directed_convolution import DirectedConvolution
from equiv.message_passing.edges import Edges
from equiv.message_passing.gated_interaction import GatedInteraction
from equiv.message_passing.interaction import Interaction
from equiv.message_passing.rank_one import (
    GauntConvolution,
    MatrixConvolution,
    RankOneConvolution,
    VectorSignalConvolution,
)
from equiv.message_passing.so2 import SO2Convolution
from equiv.message_passing.thinned_convolution import ThinnedConvolution
from equiv.models import (
    MACE,
    Forecaster,
    LongRangeModel,
    Model,
    Ponita,
    Regressor,
    SPHNet,
    VariantMACE,
    build_model,
)
from equiv.models.mace import MACELayer
from equiv.models.moving_kernel import MovingKernel
from equiv.models.ponita_layer import (
    PairGeometry,
    PointwiseProducts,
    PonitaLayer,
    SphereConvolution,
    SphereSampling,
    TensorProducts,
)
from equiv.models.ponita_networks import (
    BandLimitedNetwork,
    BandLimitedQuantities,
    ConvNeXtNetwork,
)
from equiv.models.variant_mace import VariantLayer
from equiv.nn.activated_readout import ActivatedReadout, DeepReadout
from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.distance_transform import AgnesiTransform, SoftTransform
from equiv.nn.gate import Gate
from equiv.nn.linear import ElementLinear, SphericalLinear
from equiv.nn.mlp import RadialMLP
from equiv.nn.pair_mlp import ElementPairMLP
from equiv.nn.path_gate import Phase
from equiv.nn.radial import BesselBasis, ChebyshevBasis
from equiv.nn.radial_functions import BesselFunctions, ChebyshevFunctions, GaussianFunctions
from equiv.nn.readout import LinearReadout, NonlinearReadout
from equiv.nn.reference_energies import ReferenceEnergies
from equiv.nn.rounded_zbl import RoundedZBL
from equiv.nn.zbl import ZBL
from equiv.position_orientation import (
    Channels,
    FiberConvolution,
    LegendreConvolution,
    LegendreKernel,
    LogRadialBasis,
    NeighborAttention,
    OrientationBlock,
    OrientationNetwork,
    PointCloudNetwork,
    PolynomialConvolution,
    PolynomialKernel,
    orientation_grid,
)
from equiv.position_orientation.grids import zonal_polynomials
from equiv.position_orientation.point_cloud import CloudBlock, CloudGraph
from equiv.so3 import spherical_harmonics
from equiv.tensor_products import (
    ClebschGordanTensorProduct,
    GauntFourierTensorProduct,
    GauntGridTensorProduct,
    ManyBodyProduct,
    MatrixTensorProduct,
    PathTensorProduct,
    ReferenceTensorProduct,
    SO2TensorProduct,
    SymmetricPolynomial,
    VectorSignalTensorProduct,
)
from equiv.tensor_products.gaunt_fourier import TRANSFORMS, FFTProduct
from equiv.tensor_products.gaunt_grid import (
    GRIDS,
    FoldedGridProduct,
    GridProduct,
)
from equiv.tensor_products.many_body_fourier import GauntFourierManyBodyProduct
from equiv.tensor_products.many_body_grid import GauntManyBodyProduct
from equiv.tensor_products.many_body_matrix import MatrixManyBodyProduct
from equiv.tensor_products.many_body_vector import VectorSignalManyBodyProduct
from equiv.tensor_products.separable import SeparableProduct
from equiv.testing import Spherical

ATOMS, WIDTH, CHANNELS = 7, 4, 3
# A ring of atoms, each with the two nearest and the two next nearest as neighbours.
RECEIVERS = torch.arange(ATOMS).repeat_interleave(WIDTH)
SENDERS = (RECEIVERS + torch.tensor([-2, -1, 1, 2]).repeat(ATOMS)) % ATOMS
NEIGHBORS, EDGES = neighbor_blocks(SENDERS, RECEIVERS, torch.zeros(len(SENDERS), 3), ATOMS)
PAIRS = len(EDGES)
COUNTS = [3, 0, 4]  # atoms of each element, one of them absent


@dataclass(frozen=True)
class Layer:
    """One layer and everything the laws need to know about it.

    Attributes:
        name: for the test's title.
        kind: the class that the entry covers.
        build: a fresh layer; its weights depend on torch's random state alone.
        inputs: floating tensors, from a generator, in float64.
        behaviors_in: how each of them turns.
        behaviors_out: how the results turn, one or a list.
        call: how the layer is applied; by default to the inputs.
        groups: lengths of consecutive rows that may be exchanged among themselves, if rows of the
            first axis do not see each other; ``None`` if they do.
        compiles: whether ``torch.compile(fullgraph=True)`` is tried.
        also_stores: what is in the state dict besides weights.
        step: of finite differences; smaller for norms, which bend sharply where they are small.
    """

    name: str
    kind: type[nn.Module]
    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], list[Tensor]]
    behaviors_in: Sequence[Any]
    behaviors_out: Any
    call: Callable[..., Any] = lambda layer, *inputs: layer(*inputs)
    groups: Sequence[int] | None = None
    compiles: bool = True
    also_stores: Sequence[str] = ()
    step: float = 2e-3

    def made(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The layer with seeded weights; the global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build().to(dtype)

    def given(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Seeded inputs."""
        # Not the seed of the weights, or the two would be the same numbers.
        generator = torch.Generator().manual_seed(10**6 + seed)
        return [x.to(dtype) for x in self.inputs(generator)]

    def results(self, layer: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the layer makes of them, as a list."""
        out = self.call(layer, *inputs)
        return [out] if isinstance(out, Tensor) else list(out)


class Harmonics(nn.Module):
    """Spherical harmonics are a function; the laws are about modules."""

    def __init__(self, l_max: int, normalize: bool = True) -> None:
        super().__init__()
        self.l_max, self.normalize = l_max, normalize

    def forward(self, vectors: Tensor) -> Tensor:
        return spherical_harmonics(self.l_max, vectors, normalize=self.normalize)


CHARGED = {  # two structures of finite extent
    "species": torch.randint(2, (ATOMS,), generator=torch.Generator().manual_seed(6)),
    "batch": torch.tensor([0, 0, 0, 0, 1, 1, 1]),
    "pbc": torch.zeros(2, 3, dtype=torch.bool),
}


def charge_inputs(*, features: bool, positions: bool) -> Callable:
    def inputs(g: torch.Generator) -> list[Tensor]:
        return [
            *([torch.randn(ATOMS, 6, generator=g, dtype=torch.float64)] if features else []),
            torch.randn(2, generator=g, dtype=torch.float64),
            *([5 * torch.randn(ATOMS, 3, generator=g, dtype=torch.float64)] if positions else []),
        ]

    return inputs


def charges_of(layer: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """Of a model of charges, from [features,] total charge [and positions]."""
    total = next(x for x in inputs if x.shape == (2,))
    features = next((x for x in inputs if x.shape == (ATOMS, 6)), total)
    positions = next((x for x in inputs if x.shape == (ATOMS, 3)), total)
    result = layer(
        features,
        CHARGED["species"],
        total,
        Sites(positions, total.new_zeros(2, 3, 3), CHARGED["pbc"], CHARGED["batch"]),
    )
    if isinstance(layer, EquilibratedCharges):
        return [result.charges, result.energies]
    return [result.charges]


def equilibrated(layer: nn.Module, chi: Tensor, total: Tensor, positions: Tensor) -> Tensor:
    hardnesses = 20 + 4 * torch.cos(chi)
    cell = total.new_zeros(2, 3, 3)
    return layer(chi, hardnesses, total, positions, cell, CHARGED["pbc"], CHARGED["batch"])


def crystal_inputs(g: torch.Generator) -> list[Tensor]:
    """Positions, charges and the cell of one structure."""
    cell = 6 * torch.eye(3, dtype=torch.float64) + torch.randn(3, 3, generator=g).double() / 2
    x = torch.rand(ATOMS, 3, generator=g, dtype=torch.float64) @ cell
    return [x, torch.randn(ATOMS, generator=g, dtype=torch.float64), cell[None]]


def crystal_sums(layer: nn.Module, x: Tensor, q: Tensor, cell: Tensor) -> list[Tensor]:
    """Energy and potentials of a potential in a crystal."""
    pbc = torch.ones(1, 3, dtype=torch.bool)
    return [layer(x, q, cell, pbc).to(q.dtype), layer.potentials(x, q, cell, pbc)]


def normal(*shape: int) -> Callable[[torch.Generator], list[Tensor]]:
    return lambda g: [torch.randn(*shape, generator=g, dtype=torch.float64)]


def normal_each(*shapes: tuple[int, ...]) -> Callable[[torch.Generator], list[Tensor]]:
    return lambda g: [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]


def distances(g: torch.Generator) -> list[Tensor]:
    return [0.3 + 2.6 * torch.rand(12, generator=g, dtype=torch.float64)]


def harmonics(l_max: int) -> str:
    return str(o3.Irreps.spherical_harmonics(l_max))


def per_degree(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors ``[atoms, m, channels]`` of one degree each, with the component last."""
    return [x.mT for x in tensors]


def convolution_inputs(l_in: int, l_edge: int, weights: int) -> Callable:
    def inputs(g: torch.Generator) -> list[Tensor]:
        vectors = torch.randn(PAIRS, 3, generator=g, dtype=torch.float64)
        return [
            torch.randn(ATOMS, (l_in + 1) ** 2, CHANNELS, generator=g, dtype=torch.float64),
            spherical_harmonics(l_edge, vectors),
            torch.randn(PAIRS, weights, generator=g, dtype=torch.float64),
        ]

    return inputs


def zbl_inputs(g: torch.Generator) -> list[Tensor]:
    return [0.45 + 0.45 * torch.rand(6, generator=g, dtype=torch.float64)]


def zbl_call(layer: nn.Module, r: Tensor) -> Tensor:
    numbers = torch.tensor([1, 6, 8])
    receivers, senders = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])
    return layer(r, numbers, senders, receivers)


def convolution(
    l_in: int,
    l_edge: int,
    l_out: int,
    kind: type[ClebschGordanConvolution] | type[RankOneConvolution] = ClebschGordanConvolution,
) -> Layer:
    build = lambda: kind(l_in, l_edge, l_out, CHANNELS)  # noqa: E731
    return Layer(
        f"{kind.__name__} {l_in} x {l_edge} -> {l_out}",
        kind,
        build,
        convolution_inputs(l_in, l_edge, build().weight_numel),
        [Spherical(l_in), harmonics(l_edge), None],
        [f"1x{l}{'eo'[l % 2]}" for l in range(l_out + 1)],
        call=lambda layer, x, y, w: per_degree(layer(x, y, w, NEIGHBORS)),
    )


def tensor_product(
    kind: type[PathTensorProduct], mode: str, weights: str = "internal", *, in2: str, out: str
) -> Layer:
    """Weights are ``internal``, ``shared`` (given once) or ``external`` (given for every row)."""
    in1, rows = "3x0e + 3x1o + 3x2e", 6
    build = lambda: kind(in1, in2, out, mode=mode, internal_weights=weights == "internal")  # noqa: E731

    def inputs(g: torch.Generator) -> list[Tensor]:
        product = build()
        shapes = [(rows, product.irreps_in1.dim), (rows, product.irreps_in2.dim)]
        if weights != "internal":
            shapes.append((*[rows] * (weights == "external"), product.weight_numel))
        return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]

    return Layer(
        f"{kind.__name__} {mode}, {weights} weights",
        kind,
        build,
        inputs,
        [in1, in2, *([None] if weights != "internal" else [])],
        out,
        groups=None if weights == "shared" else [rows],
        compiles=weights == "internal",  # of three alike one is enough
    )


def odd_couplings(kind: type, mode: str, in2: str, weights: str = "internal") -> Layer:
    """A product of spherical tensors with both parities."""
    in1, out, rows = "3x0e + 3x1o + 3x1e", "3x0e + 3x1o + 3x1e + 3x2e + 3x2o", 6
    build = lambda: kind(in1, in2, out, mode=mode, internal_weights=weights == "internal")  # noqa: E731

    def inputs(g: torch.Generator) -> list[Tensor]:
        product = build()
        sizes = [product.irreps_in1.dim, product.irreps_in2.dim]
        sizes += [product.weight_numel] * (weights == "external")
        return [torch.randn(rows, size, generator=g, dtype=torch.float64) for size in sizes]

    return Layer(
        f"{kind.__name__} {mode}, {weights} weights",
        kind,
        build,
        inputs,
        [in1, in2, *([None] if weights == "external" else [])],
        out,
        groups=[rows],
    )


def gaunt(kind: type, mode: str, in2: str, weights: str = "internal", **options: Any) -> Layer:
    """A Gaunt product with both parities."""
    in1, out, rows = "3x0e + 3x1o + 3x1e", "3x0e + 3x1o + 3x1e + 3x2e + 3x2o", 6
    build = lambda: kind(  # noqa: E731
        in1, in2, out, mode=mode, internal_weights=weights == "internal", **options
    )

    def inputs(g: torch.Generator) -> list[Tensor]:
        product = build()
        sizes = [product.irreps_in1.dim, product.irreps_in2.dim]
        sizes += [product.weight_numel] * (weights == "external")
        return [torch.randn(rows, size, generator=g, dtype=torch.float64) for size in sizes]

    return Layer(
        f"{kind.__name__} {mode}, {weights} weights, {options}",
        kind,
        build,
        inputs,
        [in1, in2, *([None] if weights == "external" else [])],
        out,
        groups=[rows],
        compiles=mode == "uuu",
    )


def gaunt_kernel(kind: type, build: Callable[[list[Tensor]], nn.Module], l_max: int = 2) -> Layer:
    """A product of functions on one kind of grid."""
    l = torch.arange(l_max + 1)
    scale = (4 * torch.pi / (2 * l + 1)).sqrt().repeat_interleave(2 * l + 1).double() / (l_max + 1)
    scales = [scale, scale, scale * 2]
    return Layer(
        f"{kind.__name__}, {l_max}",
        kind,
        lambda: build(scales),
        lambda g: [
            torch.randn(5, (l_max + 1) ** 2, CHANNELS, generator=g, dtype=torch.float64)
            for _ in range(2)
        ],
        [Spherical(l_max), Spherical(l_max)],
        Spherical(l_max),
        groups=[5],
        compiles=False,  # compiled as parts of the products above
    )


def so2_product(mode: str) -> Layer:
    features = "3x0e + 3x1o + 3x1e + 3x2e"

    def call(layer: nn.Module, x: Tensor, vectors: Tensor) -> Tensor:
        return layer(x, spherical_harmonics(3, vectors))

    return Layer(
        f"SO2TensorProduct {mode}",
        SO2TensorProduct,
        lambda: SO2TensorProduct(features, harmonics(3), features, mode=mode),
        lambda g: [torch.randn(6, n, generator=g, dtype=torch.float64) for n in (36, 3)],
        [features, "vector"],
        features,
        call=call,
        groups=[6],
    )


def many_body(
    l_in: int, l_out: int, correlation: int, kind: type[nn.Module] = ManyBodyProduct
) -> Layer:
    return Layer(
        f"{kind.__name__} {l_in} -> {l_out}, correlation {correlation}",
        kind,
        lambda: kind(l_in, l_out, CHANNELS, correlation=correlation, num_elements=3),
        normal(ATOMS, (l_in + 1) ** 2, CHANNELS),
        [Spherical(l_in)],
        Spherical(l_out),
        call=lambda layer, x: layer(x, COUNTS),
        groups=COUNTS,
    )


def mace_layer(*, residual: bool, degree_out: int, thinned: bool = False) -> Layer:
    l_in = 1 if residual else 0

    def build() -> MACELayer:
        layer = MACELayer(
            degree_in=l_in,
            degree_out=degree_out,
            edge_degree=2,
            channels=CHANNELS,
            correlation=2,
            radial_widths=(5, 4),
            num_elements=len(COUNTS),
            mean_neighbors=float(WIDTH),
            residual=residual,
            product="clebsch_gordan",
        )
        if thinned:
            layer.thin(0.4, budget="paths", seed=0, layer=0)
            layer.thinned.gate.scores.data.add_(0.1 * torch.rand(len(layer.convolution.paths)))
            layer.thinned.gate.update(Phase.FIXED, 0)
        return layer

    return Layer(
        f"MACELayer{', residual' if residual else ''}{', thinned' * thinned} -> {degree_out}",
        ThinnedConvolution if thinned else MACELayer,
        build,
        convolution_inputs(l_in, 2, 5),
        [Spherical(l_in), harmonics(2), None],
        Spherical(degree_out),
        call=lambda layer, x, y, r: layer(x, y, r, NEIGHBORS, COUNTS),
        compiles=not thinned,  # what is kept is state
        also_stores=["thinned.gate.kept", "thinned.gate.phase"] * thinned,
    )


SPECIES = torch.tensor([0, 0, 0, 2, 2, 2, 2])
Z_I, Z_J = torch.tensor([1, 6, 8, 1, 14]), torch.tensor([6, 6, 1, 1, 8])


def of_pairs_of_elements(kind: type[nn.Module], build: Callable[[], nn.Module]) -> Layer:
    return Layer(
        kind.__name__,
        kind,
        build,
        lambda g: [0.5 + 0.6 * torch.rand(5, generator=g, dtype=torch.float64)],
        [None],
        None,
        call=lambda layer, r: layer(r, Z_I, Z_J),
    )


def radial_functions(kind: type[nn.Module]) -> Layer:
    return Layer(kind.__name__, kind, lambda: kind(5, 3.0), distances, [None], None, groups=[12])


def directed_convolution(l_in: int) -> Layer:
    build = lambda: DirectedConvolution(l_in, 2, 2, CHANNELS)  # noqa: E731
    blocks, width = NEIGHBORS.pair.shape

    def inputs(g: torch.Generator) -> list[Tensor]:
        features, harmonics, _ = convolution_inputs(l_in, 2, 1)(g)
        shape = blocks, width, build().weight_numel
        return [features, harmonics, torch.randn(shape, generator=g, dtype=torch.float64)]

    def call(layer: nn.Module, x: Tensor, y: Tensor, w: Tensor) -> list[Tensor]:
        there = NEIGHBORS.sign.abs().unsqueeze(-1)
        return per_degree(layer(x, NEIGHBORS.directed(y), w * there, NEIGHBORS))

    return Layer(
        f"DirectedConvolution of {l_in}",
        DirectedConvolution,
        build,
        inputs,
        [Spherical(l_in), harmonics(2), None],
        [f"1x{l}{'eo'[l % 2]}" for l in range(3)],
        call=call,
    )


def interaction_inputs(g: torch.Generator) -> list[Tensor]:
    weight = torch.rand(PAIRS, generator=g, dtype=torch.float64)
    return [*convolution_inputs(1, 2, 5)(g), weight]


def interaction(kind: type[nn.Module], *, layer: bool = False, **choice: Any) -> Layer:
    """An interaction, or a layer made with it; neighbours send two channels."""
    shape = {"degree_in": 1, "degree_out": 1, "edge_degree": 2, "channels": CHANNELS}
    shape |= {"sender_channels": 2, "sender_degree": 1, **choice}

    def build() -> nn.Module:
        made = kind(**shape)
        if not layer:
            return made
        return VariantLayer(
            made,
            edge_degree=2,
            degree_out=1,
            channels=CHANNELS,
            correlation=2,
            num_elements=len(COUNTS),
        )

    def call(module: nn.Module, x: Tensor, y: Tensor, r: Tensor, w: Tensor) -> Any:
        given = module(x, Edges(y, r, w, NEIGHBORS, SPECIES, COUNTS))
        return given if layer else [t for t in given if t is not None]

    messages = Spherical(2) if not choice.get("residual", True) else [Spherical(2), Spherical(1)]
    density = choice.get("mean_neighbors", 1.0) is None
    return Layer(
        f"{'VariantLayer' if layer else kind.__name__}{', density' if density else ''}"
        f"{'' if choice.get('residual', True) else ', no residual'}",
        VariantLayer if layer else kind,
        build,
        interaction_inputs,
        [Spherical(1), harmonics(2), None, None],
        Spherical(1) if layer else messages,
        call=call,
    )


PLAIN = {"radial_widths": (5, 4), "num_elements": len(COUNTS)}

PENTAKIS = orientation_grid("pentakis32")


def on_pairs(features: int, weights: int) -> Callable[[torch.Generator], list[Tensor]]:
    """Features of atoms, vectors of pairs, and numbers that belong to pairs."""
    return lambda g: [
        torch.randn(ATOMS, features, CHANNELS, generator=g, dtype=torch.float64),
        torch.randn(PAIRS, 3, generator=g, dtype=torch.float64),
        torch.randn(PAIRS, weights, generator=g, dtype=torch.float64),
    ]


def pair_geometry(vectors: Tensor, radial: Tensor) -> PairGeometry:
    """On the grid of 32, up to degree 3."""
    points = PENTAKIS.state_dict()["points"].to(vectors)
    cosines = torch.nn.functional.normalize(vectors, dim=-1) @ points.T
    return PairGeometry(spherical_harmonics(3, vectors), zonal_polynomials(3, cosines, 3), radial)


def sphere_convolution(degree_in: int) -> Layer:
    return Layer(
        f"SphereConvolution of degree {degree_in}",
        SphereConvolution,
        lambda: SphereConvolution(PENTAKIS, 3, degree_in, CHANNELS, 4.0),
        on_pairs((degree_in + 1) ** 2, 4 * CHANNELS),
        [Spherical(degree_in), "1o", None],
        Spherical(3),
        call=lambda layer, x, r, w: layer(x, pair_geometry(r, w), w, NEIGHBORS),
    )


def ponita_layer(degree_in: int, degree_out: int, product: str = "pointwise") -> Layer:
    return Layer(
        f"PonitaLayer {degree_in} -> {degree_out}, {product}",
        PonitaLayer,
        lambda: PonitaLayer(
            PENTAKIS,
            degree=3,
            degree_in=degree_in,
            degree_out=degree_out,
            channels=CHANNELS,
            correlation=3 if product == "pointwise" else 2,
            product=product,
            radial_widths=(4, 5),
            num_elements=len(COUNTS),
            mean_neighbors=4.0,
        ),
        on_pairs((degree_in + 1) ** 2, 4),
        [Spherical(degree_in), "1o", None],
        Spherical(degree_out),
        call=lambda layer, x, r, b: layer(x, pair_geometry(r, b), NEIGHBORS, COUNTS),
    )


ORIENTATIONS = orientation_grid("octahedron")


@dataclass(frozen=True)
class Turned:
    """The octahedron's orientations as inputs, so that they can turn along."""

    points: Tensor
    antipodes: Tensor | None
    dim: int = 3


class SeenByOrientations(nn.Module):
    """A kernel and one convolution with it, of vectors and orientations that turn."""

    def __init__(self, kernel: nn.Module, convolution: nn.Module) -> None:
        super().__init__()
        self.kernel, self.convolution = kernel, convolution

    def forward(self, x: Tensor, vectors: Tensor, points: Tensor) -> Tensor:
        samples = self.kernel(vectors, Turned(points, ORIENTATIONS.antipodes), NEIGHBORS)
        return self.convolution(x, samples, NEIGHBORS)


def orientation_inputs(g: torch.Generator) -> list[Tensor]:
    """Features on the octahedron, vectors of the pairs, and the octahedron."""
    vectors = 0.6 * torch.randn(PAIRS, 3, generator=g, dtype=torch.float64)
    x = torch.randn(ATOMS, ORIENTATIONS.num, 4, generator=g, dtype=torch.float64)
    return [x, vectors, ORIENTATIONS._exact["points"].clone()]


def seen_by_orientations(kernel: Callable[[], nn.Module], kind: type[nn.Module]) -> Layer:
    def build() -> nn.Module:
        made = kernel()
        return SeenByOrientations(made, made.convolution(4, float(WIDTH)))

    name = type(kernel()).__name__
    return Layer(
        f"{kind.__name__} of {name}" if kind is not type(kernel()) else name,
        kind,
        build,
        orientation_inputs,
        [None, "vector", "vector"],
        None,
    )


def legendre_kernel() -> LegendreKernel:
    return LegendreKernel(3, BesselBasis(5, 4.0, PolynomialCutoff(6)), [6])


class WithSamples(nn.Module):
    """A kernel of lesser fame with a layer that wants samples of it."""

    def __init__(self, build: Callable[[LegendreKernel], nn.Module]) -> None:
        super().__init__()
        self.kernel = legendre_kernel()
        self.layer = build(self.kernel)

    def forward(self, x: Tensor, vectors: Tensor, points: Tensor) -> Tensor:
        grid, weights = (
            Turned(points, ORIENTATIONS.antipodes),
            x.new_full((x.shape[1],), 1 / x.shape[1]),
        )
        samples = self.kernel(vectors, grid, NEIGHBORS)
        if isinstance(self.layer, NeighborAttention):
            spatial = self.get_submodule("spatial")
            return self.layer(x, samples, spatial, weights, NEIGHBORS)
        return self.layer(x, samples, self.kernel.fiber(grid), weights, NEIGHBORS)


def attention_with_samples() -> nn.Module:
    module = WithSamples(lambda kernel: NeighborAttention(4, 2, mean_neighbors=float(WIDTH)))
    module.spatial = module.kernel.convolution(4, float(WIDTH))
    return module


def block_with_samples() -> nn.Module:
    return WithSamples(
        lambda kernel: OrientationBlock(
            kernel.convolution(4, float(WIDTH)),
            FiberConvolution(4, kernel.fiber_size),
            4,
            layer_scale=0.5,
        )
    )


def fiber_call(layer: nn.Module, x: Tensor, points: Tensor) -> Tensor:
    weights = x.new_full((x.shape[1],), 1 / x.shape[1])
    return layer(x, zonal_polynomials(2, points @ points.T, 3), weights)


CLOUD = CloudGraph(SENDERS, RECEIVERS, torch.arange(len(SENDERS)))


def orientation_network(kernel: Callable[[], nn.Module]) -> Layer:
    channels = Channels(scalars=2, vectors=2)
    vectors = 0.5 * torch.randn(PAIRS, 3, generator=torch.Generator().manual_seed(5)).double()

    def inputs(g: torch.Generator) -> list[Tensor]:
        return [
            torch.randn(ATOMS, 2, generator=g, dtype=torch.float64),
            torch.randn(ATOMS, 2, 3, generator=g, dtype=torch.float64),
            vectors.clone(),
            torch.eye(3, dtype=torch.float64),
        ]

    def call(net: nn.Module, s: Tensor, v: Tensor, pairs: Tensor, frame: Tensor) -> list[Tensor]:
        # The rows of the frame are its axes, so its transpose turns the grid.
        out = net(pairs, NEIGHBORS, scalars=s, vectors_in=v, orientation=frame.T)
        return [out.scalars, out.vectors, out.invariants]

    def build() -> nn.Module:
        net = OrientationNetwork(
            grid=orientation_grid("octahedron"),
            kernel=kernel(),
            inputs=channels,
            outputs=channels,
            channels=8,
            layers=2,
            mean_neighbors=float(WIDTH),
            layer_scale=0.1,
        )
        for block in net.blocks:  # small kernels make the norm stiff, and differences bad
            block.spatial.rescale(40.0)
        return net

    return Layer(
        f"OrientationNetwork, {type(kernel()).__name__}",
        OrientationNetwork,
        build,
        inputs,
        [None, "vector", "vector", "vector"],
        [None, "vector", None],
        call=call,
        also_stores=[f"grid.{name}" for name in ("points", "weights", "frame")],
    )


def point_cloud_network() -> nn.Module:
    net = PointCloudNetwork(
        inputs=Channels(scalars=2, vectors=1),
        outputs=Channels(scalars=1, vectors=2),
        channels=8,
        layers=2,
        mean_neighbors=float(WIDTH),
        layer_scale=0.1,
        cutoff=6.0,
        hidden=6,
        basis=6,
    )
    for block in net.blocks:
        block.weight.weight.data *= 20
    return net


def point_cloud_call(net: nn.Module, s: Tensor, v: Tensor, vectors: Tensor) -> list[Tensor]:
    out = net(vectors, SENDERS, RECEIVERS, ATOMS, scalars=s, vectors_in=v)
    return [out.scalars, out.vectors]


NATURAL, BLOCKS = Degrees.up_to(1), Degrees((0, 1, 2), (1,))
PAIR_FIRST, PAIR_SECOND = torch.triu_indices(ATOMS, ATOMS, offset=1)
ORBITALS = OrbitalBasis("some", {1: (0,), 8: (0, 1)})
WATER = BlockLayout.build(ORBITALS, torch.tensor([8, 1, 1]))


def irreps_of(degrees: Degrees) -> list[str]:
    return [f"1x{l}{'eo'[(l + (sign < 0)) % 2]}" for sign, l in degrees.irreps]


def per_irrep(x: Tensor, degrees: Degrees) -> list[Tensor]:
    """Tensors ``[rows, channels, m]`` of one irrep each."""
    return [part.mT for part in x.split([2 * l + 1 for _, l in degrees.irreps], dim=1)]


def hamiltonian_layer(kind: type[nn.Module], *arguments: Any, out: Degrees = NATURAL) -> Layer:
    """A layer of Hamiltonian networks that maps atoms one by one."""
    return Layer(
        f"{kind.__name__} of Hamiltonians",
        kind,
        lambda: kind(*arguments),
        normal(ATOMS, NATURAL.dim, 4),
        [Spherical(1)],
        irreps_of(out),
        call=lambda layer, x: per_irrep(layer(x), out),
        groups=[ATOMS],
        compiles=False,  # kernels of their own
        step=5e-4,
    )


def hamiltonian_pair_layer(
    kind: type[nn.Module],
    arguments: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    behaviors_in: Sequence[Any],
    call: Callable[..., Tensor | list[Tensor]],
    behaviors_out: Any,
) -> Layer:
    """A layer of Hamiltonian networks that knows all pairs of atoms of a molecule.

    ``call`` takes the layer, what is given in these shapes, and the pairs, whose harmonics and
    radial functions are inputs too.
    """

    def inputs(g: torch.Generator) -> list[Tensor]:
        pairs = len(PAIR_FIRST)
        vectors = torch.randn(pairs, 3, generator=g, dtype=torch.float64)
        radial = torch.rand(pairs, 3, generator=g, dtype=torch.float64)
        given = [0.5 * torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]
        return [*given, spherical_harmonics(2, vectors), radial]

    def applied(layer: nn.Module, *tensors: Tensor) -> Tensor | list[Tensor]:
        *given, y, radial = tensors
        one, distances = torch.zeros(len(PAIR_FIRST), dtype=torch.long), radial.sum(1)
        pairs = AtomPairs(PAIR_FIRST, PAIR_SECOND, distances, y, radial, one, torch.tensor([ATOMS]))
        return call(layer, *given, pairs)

    return Layer(
        f"{kind.__name__} of Hamiltonians",
        kind,
        lambda: kind(*arguments),
        inputs,
        [*behaviors_in, harmonics(2), None],
        behaviors_out,
        call=applied,
        compiles=False,
        step=5e-4,
    )


def block_readout(layer: nn.Module, x: Tensor, pseudo: Tensor) -> list[Tensor]:
    """The irreps of all blocks of three atoms, from features of atoms and of pairs."""
    pseudo = nn.functional.pad(pseudo.mT, (0, 0, 1, 0))  # what has no scalars
    (atoms, pairs), (atoms_p, pairs_p) = (z.split(3) for z in (x, pseudo))
    blocks = layer((atoms, atoms_p), (pairs, pairs_p), WATER)
    return [
        rows[:, part.columns].unflatten(-1, (2 * part.l + 1, part.count)).mT
        for key, rows in blocks.items()
        for part in block_kind(key).parts
    ]


def heard(layer: Messages, x: Tensor, pairs: AtomPairs) -> Tensor:
    """Messages with weights that are functions of the distance."""
    paths = tuple(range(len(layer.product.paths)))
    rows = torch.linspace(-1, 1, len(paths) * x.shape[2]).to(x).view(len(paths), 1, -1)
    y, atoms = pairs.harmonics[:, : x.shape[1]], (pairs.first, pairs.second)
    hidden = pairs.radial.sum(1, keepdim=True)
    return layer(x, y, atoms, hidden, rows, x.new_ones(len(paths)), paths)


def block_kind(key: Any) -> Any:
    return ORBITALS.diagonal(key) if isinstance(key, int) else ORBITALS.pair(*key)


def block_irreps() -> list[str]:
    keys = [*WATER.atoms, *WATER.pair_slices]
    parts = [part for key in keys for part in block_kind(key).parts]
    return [f"1x{part.l}{'eo'[(part.l + (part.sign < 0)) % 2]}" for part in parts]


LAYERS = [
    hamiltonian_layer(IrrepLinear, NATURAL, 4),
    hamiltonian_layer(NormGate, NATURAL, 4, 6),
    hamiltonian_layer(DiagonalLayer, NATURAL, BLOCKS, 4, 6, out=BLOCKS),
    hamiltonian_pair_layer(
        VectorialInteraction,
        (4, 3, 6.0),
        [(ATOMS, 4), (ATOMS, 4, 3)],
        [None, "1x1o"],
        lambda layer, s, v, pairs: [
            (out := layer(s, v.mT.contiguous(), pairs))[0],
            out[1].mT,
        ],
        [None, "1x1o"],
    ),
    hamiltonian_pair_layer(
        SphericalEmbedding,
        (NATURAL, 4, 3, 6, 6.0),
        [(ATOMS, 4)],
        [None],
        lambda layer, s, pairs: layer(s, pairs),
        Spherical(1),
    ),
    hamiltonian_pair_layer(
        SphericalInteraction,
        (NATURAL, 4, 3, 6, 6.0),
        [(ATOMS, 4, 4)],
        [Spherical(1)],
        lambda layer, x, pairs: layer(x, pairs),
        Spherical(1),
    ),
    hamiltonian_pair_layer(
        Messages,
        (PathProduct(NATURAL, NATURAL, NATURAL),),
        [(ATOMS, 4, 4)],
        [Spherical(1)],
        heard,
        Spherical(1),
    ),
    hamiltonian_pair_layer(
        DirectPairFeatures,
        (NATURAL, BLOCKS, 4, 3, 6),
        [(ATOMS, 4)],
        [None],
        lambda layer, s, pairs: per_irrep(layer(s, pairs), BLOCKS)[:2],  # the others are zero
        irreps_of(BLOCKS)[:2],
    ),
    hamiltonian_pair_layer(
        PairLayer,
        (NATURAL, BLOCKS, 4, 3, 6),
        [(ATOMS, 4, 4)],
        [Spherical(1)],
        lambda layer, x, pairs: per_irrep(layer(None, x, pairs), BLOCKS),
        irreps_of(BLOCKS),
    ),
    Layer(
        "PathProduct",
        PathProduct,
        lambda: PathProduct(NATURAL, NATURAL, BLOCKS),
        normal_each((5, 4, 4), (5, 4, 4), (5, 6, 4)),
        [Spherical(1), Spherical(1), None],
        irreps_of(BLOCKS),
        call=lambda layer, x, y, w: per_irrep(
            layer(x, y, w, tuple(range(len(layer.paths)))), BLOCKS
        ),
        groups=[5],
        compiles=False,
    ),
    Layer(
        "PairInvariants",
        PairInvariants,
        lambda: PairInvariants(NATURAL, 4),
        normal(ATOMS, 4, 4),
        [Spherical(1)],
        None,
        call=lambda layer, x: layer(x, PAIR_FIRST, PAIR_SECOND),
        compiles=False,
    ),
    Layer(
        "PairWeights",
        PairWeights,
        lambda: PairWeights(3, 5, 6, 2, 4),
        normal_each((9, 3), (9, 5)),
        [None, None],
        None,
        groups=[9],
        compiles=False,
    ),
    Layer("Dense", Dense, lambda: Dense(3, 4), normal(9, 3), [None], None, groups=[9]),
    Layer(
        "ExponentialBernstein",
        ExponentialBernstein,
        lambda: ExponentialBernstein(6, 3.0),
        distances,
        [None],
        None,
        groups=[12],
    ),
    Layer(
        "BlockReadout",
        BlockReadout,
        lambda: BlockReadout(ORBITALS, 4, 2),
        normal_each((6, 9, 4), (6, 4, 8)),
        [Spherical(2), "1x1e+1x2o"],
        block_irreps(),
        call=block_readout,
        compiles=False,
    ),
    Layer(
        "spherical harmonics",
        Harmonics,
        lambda: Harmonics(4),
        normal(9, 3),
        ["vector"],
        harmonics(4),
        groups=[9],
    ),
    Layer(
        "solid harmonics",
        Harmonics,
        lambda: Harmonics(3, normalize=False),
        normal(9, 3),
        ["vector"],
        harmonics(3),
        groups=[9],
    ),
    Layer(
        "PolynomialCutoff",
        PolynomialCutoff,
        lambda: PolynomialCutoff(5),
        lambda g: [torch.rand(9, generator=g, dtype=torch.float64)],
        [None],
        None,
        groups=[9],
    ),
    Layer(
        "BesselBasis",
        BesselBasis,
        lambda: BesselBasis(6, 3.0, PolynomialCutoff(5)),
        distances,
        [None],
        None,
        groups=[12],
    ),
    Layer(
        "ChebyshevBasis",
        ChebyshevBasis,
        lambda: ChebyshevBasis(6, 3.0, PolynomialCutoff(6)),
        distances,
        [None],
        None,
        groups=[12],
    ),
    Layer(
        "LogRadialBasis",
        LogRadialBasis,
        lambda: LogRadialBasis(5, 0.2, 4.0),
        distances,
        [None],
        None,
        groups=[12],
    ),
    seen_by_orientations(
        lambda: PolynomialKernel(6, 8, degree=2, attributes="smooth"), PolynomialKernel
    ),
    seen_by_orientations(lambda: PolynomialKernel(6, 8, cutoff=4.0), PolynomialConvolution),
    seen_by_orientations(legendre_kernel, LegendreKernel),
    seen_by_orientations(legendre_kernel, LegendreConvolution),
    Layer(
        "FiberConvolution",
        FiberConvolution,
        lambda: FiberConvolution(4, 3),
        lambda g: orientation_inputs(g)[::2],
        [None, "vector"],
        None,
        call=fiber_call,
    ),
    Layer(
        "NeighborAttention",
        NeighborAttention,
        attention_with_samples,
        orientation_inputs,
        [None, "vector", "vector"],
        None,
    ),
    Layer(
        "OrientationBlock",
        OrientationBlock,
        block_with_samples,
        orientation_inputs,
        [None, "vector", "vector"],
        None,
    ),
    Layer(
        "CloudBlock",
        CloudBlock,
        lambda: CloudBlock(4, 3, mean_links=float(WIDTH)),
        lambda g: [
            torch.randn(ATOMS, 4, generator=g, dtype=torch.float64),
            torch.randn(len(SENDERS), 3, generator=g, dtype=torch.float64),
        ],
        [None, None],
        None,
        call=lambda layer, x, basis: layer(x, basis, CLOUD),
    ),
    orientation_network(legendre_kernel),
    orientation_network(lambda: PolynomialKernel(6, 8, degree=2, attributes="smooth")),
    Layer(
        "PointCloudNetwork",
        PointCloudNetwork,
        point_cloud_network,
        lambda g: [
            torch.randn(ATOMS, 2, generator=g, dtype=torch.float64),
            torch.randn(ATOMS, 1, 3, generator=g, dtype=torch.float64),
            torch.randn(len(SENDERS), 3, generator=g, dtype=torch.float64),
        ],
        [None, "vector", "vector"],
        [None, "vector"],
        call=point_cloud_call,
        compiles=False,  # how many links there are depends on the data
    ),
    Layer(
        "RadialMLP",
        RadialMLP,
        lambda: RadialMLP([5, 8, 6, 4]),
        normal(9, 5),
        [None],
        None,
        groups=[9],
    ),
    Layer(
        "SphericalLinear",
        SphericalLinear,
        lambda: SphericalLinear(CHANNELS, 5, 2),
        normal(ATOMS, 9, CHANNELS),
        [Spherical(2)],
        Spherical(2),
        groups=[ATOMS],
    ),
    Layer(
        "SphericalLinear, widths by degree",
        SphericalLinear,
        lambda: SphericalLinear([4, 2], 5, 1),
        lambda g: [
            torch.randn(ATOMS, 1, 4, generator=g, dtype=torch.float64),
            torch.randn(ATOMS, 2, 3, generator=g, dtype=torch.float64),
        ],
        [None, "1o"],
        Spherical(1),
        call=lambda layer, x0, x1: layer([x0, x1.mT]),
        groups=[ATOMS],
    ),
    Layer(
        "ElementLinear",
        ElementLinear,
        lambda: ElementLinear(CHANNELS, 5, 2, num_elements=len(COUNTS)),
        normal(ATOMS, 9, CHANNELS),
        [Spherical(2)],
        Spherical(2),
        call=lambda layer, x: layer(x, COUNTS),
        groups=COUNTS,
    ),
    Layer(
        "LinearReadout",
        LinearReadout,
        lambda: LinearReadout(6),
        normal(9, 6),
        [None],
        None,
        groups=[9],
    ),
    Layer(
        "NonlinearReadout",
        NonlinearReadout,
        lambda: NonlinearReadout(6, 4),
        normal(9, 6),
        [None],
        None,
        groups=[9],
    ),
    *(
        tensor_product(kind, mode, weights, in2=in2, out=out)
        for kind in (ClebschGordanTensorProduct, ReferenceTensorProduct)
        for mode, in2, out in (
            ("uvw", "2x0e + 1x1o + 1x1e", "2x0e + 1x1o + 2x2e + 1x1e"),
            ("uvu", "2x0e + 1x1o", "3x0e + 3x1o + 3x2e + 3x2o"),
            ("uuu", "3x0e + 3x1o", "3x0e + 3x1o + 3x1e + 3x2e"),
        )
        for weights in ("internal", "shared", "external")
    ),
    Layer(
        "ClebschGordanTensorProduct, spherical layout",
        ClebschGordanTensorProduct,
        lambda: ClebschGordanTensorProduct(
            "3x0e + 3x1o", "0e + 1o + 2e", "3x0e + 3x1o", mode="uvu"
        ),
        lambda g: [
            torch.randn(6, 4, 3, generator=g, dtype=torch.float64),
            torch.randn(6, 9, 1, generator=g, dtype=torch.float64),
        ],
        [Spherical(1), Spherical(2)],
        Spherical(1),
        call=lambda layer, x, y: layer.forward_spherical(x, y),
        groups=[6],
    ),
    Layer(
        "ReferenceEnergies",
        ReferenceEnergies,
        lambda: ReferenceEnergies([-13.6, -1029.3, -2041.7]),
        normal(4),
        [None],
        None,
        call=lambda layer, x: x + layer(torch.tensor([0, 2, 1, 0])).to(x),
    ),
    *(
        odd_couplings(kind, *options)
        for kind in (MatrixTensorProduct, VectorSignalTensorProduct)
        for options in (
            ("uuu", "3x0e + 3x1o"),
            ("uvu", "0e + 1o + 2e", "external"),
            ("uvw", "2x1o + 2x2o"),
        )
    ),
    gaunt(GauntGridTensorProduct, "uuu", "3x0e + 3x1o"),
    gaunt(GauntGridTensorProduct, "uvu", "0e + 1o + 2e", "external"),
    gaunt(GauntGridTensorProduct, "uvw", "2x0e + 2x1o"),
    gaunt(GauntGridTensorProduct, "uvu", "0e + 1o", grid="separable"),
    gaunt(GauntFourierTensorProduct, "uuu", "3x0e + 3x1o"),
    gaunt_kernel(GridProduct, lambda s: GRIDS["product"](6, s)),
    gaunt_kernel(FoldedGridProduct, lambda s: GRIDS["folded_lebedev"](6, s)),
    gaunt_kernel(SeparableProduct, lambda s: GRIDS["separable"](6, s)),
    gaunt_kernel(FFTProduct, TRANSFORMS["fft"]),
    so2_product("uvu"),
    so2_product("uvw"),
    Layer(
        "FixedCharges",
        FixedCharges,
        lambda: FixedCharges(torch.randn(2), trainable=True),
        charge_inputs(features=False, positions=False),
        [None],
        None,
        call=charges_of,
    ),
    Layer(
        "LearnedCharges",
        LearnedCharges,
        lambda: LearnedCharges(6, 2, hidden=4),
        charge_inputs(features=True, positions=False),
        [None, None],
        None,
        call=charges_of,
    ),
    Layer(
        "EquilibratedCharges",
        EquilibratedCharges,
        lambda: EquilibratedCharges(
            6, 2, ChargeEquilibration(DirectSum(), tolerance=1e-12), hidden=4, hardness=20.0
        ),
        charge_inputs(features=True, positions=True),
        [None, None, "1o"],
        [None, None],
        call=charges_of,
        compiles=False,
    ),
    Layer(
        "ChargeEquilibration",
        ChargeEquilibration,
        lambda: ChargeEquilibration(DirectSum(), tolerance=1e-12),
        lambda g: [
            torch.randn(ATOMS, generator=g, dtype=torch.float64),
            *charge_inputs(features=False, positions=True)(g),
        ],
        [None, None, "1o"],
        None,
        call=equilibrated,
        compiles=False,
    ),
    Layer(
        "LearnedCoefficients",
        LearnedCoefficients,
        lambda: LearnedCoefficients(6, 2, hidden=4),
        normal(ATOMS, 6),
        [None],
        None,
        call=lambda layer, x: layer(x, CHARGED["species"]),
    ),
    Layer(
        "DirectSum",
        DirectSum,
        DirectSum,
        lambda g: crystal_inputs(g)[:2],
        ["1o", None],
        [None, None],
        call=lambda layer, x, q: [layer(x, q).to(q.dtype), layer.potentials(x, q)],
        compiles=False,
    ),
    *(
        Layer(
            kind.__name__,
            kind,
            lambda kind=kind: kind(1e-7),  # curvature jumps at the cutoff, by the tolerance
            crystal_inputs,
            ["1o", None, "1o"],
            [None, None],
            call=crystal_sums,
            compiles=False,
        )
        for kind in (EwaldSum, ChebyshevTucker)
    ),
    Layer("ZBL", ZBL, ZBL, zbl_inputs, [None], None, call=zbl_call),
    convolution(0, 2, 2),
    convolution(1, 2, 2),
    convolution(2, 3, 3),
    convolution(1, 2, 2, SO2Convolution),
    convolution(0, 2, 2, GauntConvolution),
    convolution(1, 2, 2, GauntConvolution),
    convolution(1, 2, 2, MatrixConvolution),
    convolution(2, 3, 2, VectorSignalConvolution),
    many_body(2, 1, 1),
    many_body(2, 2, 2),
    many_body(2, 1, 3),
    many_body(1, 1, 4),
    many_body(2, 1, 3, GauntManyBodyProduct),
    many_body(1, 1, 4, GauntManyBodyProduct),
    many_body(2, 1, 3, GauntFourierManyBodyProduct),
    many_body(3, 1, 3, MatrixManyBodyProduct),
    many_body(2, 1, 3, VectorSignalManyBodyProduct),
    Layer(
        "SymmetricPolynomial",
        SymmetricPolynomial,
        lambda: SymmetricPolynomial(2, 1, CHANNELS, correlation=3, num_elements=len(COUNTS)),
        normal(ATOMS, 9, CHANNELS),
        [Spherical(2)],
        "1o",
        call=lambda layer, x: layer(x, COUNTS).mT,
    ),
    radial_functions(BesselFunctions),
    radial_functions(GaussianFunctions),
    radial_functions(ChebyshevFunctions),
    of_pairs_of_elements(AgnesiTransform, AgnesiTransform),
    of_pairs_of_elements(SoftTransform, SoftTransform),
    of_pairs_of_elements(RoundedZBL, lambda: RoundedZBL(6)),
    Layer(
        "ElementPairMLP",
        ElementPairMLP,
        lambda: ElementPairMLP([5, 8, 6, 4], num_elements=3),
        normal(3, 5),
        [None],
        None,
        call=lambda layer, x: layer(x, torch.tensor([0, 2, 2]), torch.tensor([1, 1, 0])),
    ),
    Layer(
        "Gate",
        Gate,
        lambda: Gate(2),
        lambda g: [
            torch.randn(ATOMS, 9, CHANNELS, generator=g, dtype=torch.float64),
            torch.randn(ATOMS, 2 * CHANNELS, generator=g, dtype=torch.float64),
        ],
        [Spherical(2), None],
        Spherical(2),
        groups=[ATOMS],
    ),
    *(
        Layer(
            f"{kind.__name__} {activation}",
            kind,
            lambda kind=kind, activation=activation: kind(6, 4, activation),
            normal(9, 6),
            [None],
            None,
            groups=[9],
        )
        for kind, activation in (
            (ActivatedReadout, "tanh"),
            (ActivatedReadout, "identity"),
            (DeepReadout, "silu"),
        )
    ),
    directed_convolution(1),
    interaction(Interaction, **PLAIN, mean_neighbors=3.0, residual=True),
    interaction(Interaction, **PLAIN, mean_neighbors=None, residual=False),
    interaction(AttentiveInteraction, num_radial=5, hidden=(4, 3), scalars=2, mean_neighbors=3.0),
    interaction(GatedInteraction, **PLAIN, density_hidden=(4,)),
    interaction(Interaction, layer=True, **PLAIN, mean_neighbors=None, residual=True),
    mace_layer(residual=False, degree_out=1),
    mace_layer(residual=True, degree_out=1),
    mace_layer(residual=True, degree_out=0),
    mace_layer(residual=True, degree_out=1, thinned=True),
    Layer(
        "SphereSampling, there and back",
        SphereSampling,
        lambda: SphereSampling(PENTAKIS, 3),
        normal(ATOMS, 16, CHANNELS),
        [Spherical(3)],
        Spherical(3),
        call=lambda layer, x: layer.coefficients(layer.values(x) ** 2),
        groups=[ATOMS],
    ),
    Layer(
        "PointwiseProducts",
        PointwiseProducts,
        lambda: PointwiseProducts(PENTAKIS, 3, 1, CHANNELS, 3),
        normal(ATOMS, 16, CHANNELS),
        [Spherical(3)],
        Spherical(1),
        call=lambda layer, x: layer(x, COUNTS),
        groups=[ATOMS],
    ),
    Layer(
        "TensorProducts",
        TensorProducts,
        lambda: TensorProducts("matrix", 2, 2, CHANNELS, 2, len(COUNTS)),
        normal(ATOMS, 9, CHANNELS),
        [Spherical(2)],
        Spherical(2),
        call=lambda layer, x: layer(x, COUNTS),
        groups=COUNTS,
    ),
    sphere_convolution(0),
    sphere_convolution(3),
    ponita_layer(0, 3),
    ponita_layer(3, 0),
    ponita_layer(3, 3, "clebsch_gordan"),
]


def mace(**choice: Any) -> Model:
    """A small MACE with random float64 weights."""
    recipe = dict(
        elements=["H", "C", "O"],
        cutoff=4.0,
        channels=4,
        edge_degree=2,
        correlation=2,
        num_radial=5,
        radial_hidden=[8],
        readout_hidden=4,
        mean_neighbors=8.0,
        reference_energies={"H": -13.6, "C": -1029.3, "O": -2041.7},
        scale=1.7,
        shift=-0.4,
    )
    return build_model("mace", seed=3, dtype=torch.float64, **{**recipe, **choice})


def variant(**choice: Any) -> Model:
    """A small VariantMACE with random float64 weights."""
    recipe = dict(
        elements=["H", "C", "O"],
        cutoff=4.0,
        channels=4,
        hidden_degree=1,
        edge_degree=2,
        correlation=[2, 2],
        interactions=["density", "density_residual"],
        sender_channels=[4, 4],
        sender_degree=[0, 1],
        num_radial=5,
        radial_hidden=[8],
        readouts=["linear", "nonlinear"],
        readout_hidden=4,
        mean_neighbors=8.0,
        reference_energies={"H": -13.6, "C": -1029.3, "O": -2041.7},
        scale=1.7,
        shift=-0.4,
    )
    model = build_model("variant_mace", seed=3, dtype=torch.float64, **{**recipe, **choice})
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():  # biases at birth
                weight.normal_(std=0.1, generator=generator)
    return model


def ponita(**choice: Any) -> Model:
    """A small Ponita with random float64 weights."""
    recipe = dict(
        elements=["H", "C", "O"],
        cutoff=4.0,
        channels=4,
        num_radial=5,
        radial_hidden=[8],
        readout_hidden=4,
        mean_neighbors=8.0,
        reference_energies={"H": -13.6, "C": -1029.3, "O": -2041.7},
        scale=1.7,
        shift=-0.4,
    )
    return build_model("ponita", seed=3, dtype=torch.float64, **{**recipe, **choice})


def with_small_charges(model: Model) -> Model:
    """So that the error of the long-range sums, quadratic in them, is below that of the laws."""
    assert isinstance(model, LongRangeModel)
    with torch.no_grad():
        for weight in model.charges.parameters():
            weight.mul_(0.1)
    return model


MODELS: dict[str, Callable[[], Model]] = {
    "MACE": lambda: mace(correlation=3),
    "MACE of scalars, edges of degree 3": lambda: mace(
        hidden_degree=0, edge_degree=3, product="clebsch_gordan"
    ),
    "MACE of tensors, three layers, Chebyshev": lambda: mace(
        hidden_degree=2, layers=3, radial_basis="chebyshev", cutoff_power=6
    ),
    "MACE of one layer, four-body, ZBL": lambda: mace(
        layers=1, edge_degree=1, correlation=4, zbl=True
    ),
    **{
        f"MACE by {product}": lambda product=product: mace(correlation=3, product=product)
        for product in ("so2", "gaunt_grid", "matrix", "vector_signal")
    },
    "MACE and learned charges, dispersion": lambda: mace(
        # Sums in boxes follow the axes along which nothing repeats: turned, they err otherwise.
        channels=3,
        long_range={"charges": "learned", "dispersion": True, "tolerance": 1e-9},
    ),
    "MACE and equilibrated charges": lambda: mace(
        channels=3, edge_degree=1, long_range={"charges": "equilibrated", "tolerance": 1e-7}
    ),
    "Ponita": ponita,
    "Ponita of degree 2, ZBL, Clebsch-Gordan": lambda: ponita(
        grid="lebedev26", degree=2, layers=2, zbl=True, product="clebsch_gordan"
    ),
    "Ponita of published blocks": lambda: ponita(
        block="convnext", layers=2, channels=8, widening=2, orientation="random_per_step"
    ),
    "Ponita and learned charges": lambda: with_small_charges(
        ponita(layers=2, long_range={"charges": "learned", "tolerance": 1e-7})
    ),
    "VariantMACE: density, Agnesi, ZBL": lambda: variant(
        distance_transform="agnesi", repulsion=6, radial_functions="gaussian"
    ),
    "VariantMACE: gated, soft distances, envelope on weights": lambda: variant(
        interactions=["gated", "gated"],
        sender_channels=[2, 3],
        distance_transform="soft",
        envelope="weights",
        element_products=False,
        readouts=["none", "deep"],
    ),
    "VariantMACE: attentive, three layers": lambda: variant(
        interactions=["plain", "plain_residual", "attentive"],
        correlation=[1, 2, 3],
        sender_channels=[4, 4, 4],
        sender_degree=[0, 1, 0],
        envelope="weights",
        readouts=["linear", "none", "nonlinear"],
        activation="tanh",
        frequencies=[0.7, 1.6, 2.3, 3.1, 4.0],
    ),
}
# BandLimitedNetwork and ConvNeXtNetwork are all there is to a Ponita but its energies.
MODEL_KINDS = (MACE, VariantMACE, Ponita, BandLimitedNetwork, ConvNeXtNetwork, LongRangeModel)
# Models that are no potentials, and their own parts: their laws are in tests/models/test_<name>.py.
OTHER_MODELS = (BandLimitedQuantities, Forecaster, MovingKernel, Regressor, SPHNet)
