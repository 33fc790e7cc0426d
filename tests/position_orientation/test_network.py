import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from equiv.errors import EquivError
from equiv.graph.blocks import neighbor_blocks
from equiv.native import find_compiler
from equiv.nn.cutoff import PolynomialCutoff
from equiv.nn.radial import BesselBasis
from equiv.position_orientation import (
    Channels,
    LegendreKernel,
    LogRadialBasis,
    OrientationNetwork,
    PointCloudNetwork,
    PolynomialKernel,
    cloud_graph,
    orientation_grid,
    rotation_group,
)
from equiv.so3.rotations import random_rotations

CUTOFF = 6.0
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
KERNELS = {
    "polynomial": lambda **k: PolynomialKernel(12, 16, cutoff=CUTOFF, **k),
    "smooth polynomial": lambda **k: PolynomialKernel(
        12, 16, cutoff=CUTOFF, attributes="smooth", **k
    ),
    "legendre": lambda **k: LegendreKernel(
        3, BesselBasis(5, CUTOFF, PolynomialCutoff(6)), [8], **k
    ),
    "legendre, no cutoff": lambda **k: LegendreKernel(2, LogRadialBasis(6, 0.3, 8.0), [8], **k),
}
SMOOTH = ["smooth polynomial", "legendre", "legendre, no cutoff"]


def network(kernel="legendre", grid="icosahedron", *, num=None, dtype=torch.float64, **choice):
    modulated = {k: choice.pop(k) for k in ("pair_scalars",) if k in choice}
    if choice.get("condition"):
        modulated["condition"] = choice["condition"]
    settings = dict(channels=8, layers=2, mean_neighbors=5.0) | choice
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = OrientationNetwork(
            grid=orientation_grid(grid, num),
            kernel=KERNELS[kernel](**modulated),
            inputs=Channels(scalars=2, vectors=1),
            outputs=Channels(scalars=1, vectors=1, tensors=1),
            **settings,
        ).to(dtype)
        for parameter in net.parameters():
            if not parameter.any():  # zero at birth
                torch.nn.init.normal_(parameter, std=0.3)
    return net


def given(cluster, atoms=None):
    atoms = cluster.atoms if atoms is None else atoms
    return dict(scalars=cluster.normal(atoms, 2), vectors_in=cluster.normal(atoms, 1, 3))


def turned(inputs, turn):
    return inputs | {"vectors_in": inputs["vectors_in"] @ turn.T}


def assert_turned(after, before, turn, tolerance=1e-12):
    for a, b in (
        (after.scalars, before.scalars),
        (after.vectors, before.vectors @ turn.T),
        (after.tensors, turn @ before.tensors @ turn.T),
        (after.invariants, before.invariants),
    ):
        assert (a - b).abs().max() <= tolerance * max(1, b.abs().max())


@pytest.mark.parametrize("kernel", KERNELS)
def test_rotations_of_the_grids_group_are_exact(kernel, cluster):
    net, inputs = network(kernel, layer_scale=0.5), given(cluster)
    before = net(cluster.vectors(), cluster.neighbors, **inputs)
    rotations, _ = rotation_group(net.grid)
    for turn in [*rotations[1::7], -torch.eye(3, dtype=torch.float64)]:
        after = net(cluster.vectors() @ turn.T, cluster.neighbors, **turned(inputs, turn))
        assert_turned(after, before, turn)


def test_any_rotation_is_exact_if_the_grid_turns_along(cluster):
    net, inputs = network(), given(cluster)
    turn = random_rotations(generator=torch.Generator().manual_seed(3))
    before = net(cluster.vectors(), cluster.neighbors, **inputs)
    after = net(
        cluster.vectors() @ turn.T,
        cluster.neighbors,
        **turned(inputs, turn),
        orientation=turn,
    )
    assert_turned(after, before, turn)


def test_any_rotation_is_nearly_exact_on_a_strong_grid(cluster):
    turn = random_rotations(generator=torch.Generator().manual_seed(3))
    scalars, errors = cluster.normal(6, 2), {}
    for grid in ("octahedron", "pentakis32"):
        torch.manual_seed(0)
        net = OrientationNetwork(
            grid=orientation_grid(grid),
            kernel=LegendreKernel(2, BesselBasis(5, CUTOFF, PolynomialCutoff(6))),
            inputs=Channels(scalars=2),
            outputs=Channels(scalars=1, vectors=1),
            channels=32,
            layers=3,
            mean_neighbors=5.0,
        ).double()
        args = (cluster.neighbors,), dict(scalars=scalars)
        with torch.no_grad():
            before = net(cluster.vectors(), *args[0], **args[1])
            after = net(cluster.vectors() @ turn.T, *args[0], **args[1])
        errors[grid] = float((after.vectors - before.vectors @ turn.T).norm())
        errors[grid] /= float(before.vectors.norm())
    assert errors["pentakis32"] < 1e-3
    assert errors["octahedron"] > 20 * errors["pentakis32"]


def test_translations_and_permutations(cluster):
    net, inputs = network(heads=2), given(cluster)
    before = net(cluster.vectors(), cluster.neighbors, **inputs)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = cluster.positions[order] + torch.tensor([1.0, -2.0, 3.0])
    permuted = {k: v[order] for k, v in inputs.items()}
    after = net(cluster.neighbors.differences(moved), cluster.neighbors, **permuted)
    assert (after.scalars - before.scalars[order]).abs().max() < 1e-12
    assert (after.vectors - before.vectors[order]).abs().max() < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_weights_work_on_another_grid(kernel, cluster):
    coarse, fine = network(kernel, "pentakis32"), network(kernel, "repulsion", num=48)
    weights = {k: v for k, v in coarse.state_dict().items() if not k.startswith("grid.")}
    fine.load_state_dict(weights | {f"grid.{k}": v for k, v in fine.grid.state_dict().items()})
    inputs = given(cluster)
    a, b = (net(cluster.vectors(), cluster.neighbors, **inputs) for net in (coarse, fine))
    assert (a.scalars - b.scalars).abs().max() < 0.2 * a.scalars.abs().max()
    assert (a.vectors - b.vectors).norm() < 0.2 * a.vectors.norm()


def energy_of(net, cluster, inputs):
    def energy(positions):
        out = net(cluster.neighbors.differences(positions), cluster.neighbors, **inputs)
        return out.scalars.sum() + 0.1 * out.vectors.square().sum()

    return energy


def passing(net, cluster):
    """Energy as atom 1 passes a direction of the grid as seen from atom 0, and the place."""
    energy = energy_of(net, cluster, given(cluster))
    x = cluster.positions.clone()
    x[1] = x[0] + 1.3 * net.grid.points[2]
    across = torch.linalg.cross(net.grid.points[2], net.grid.points[0])
    return energy, x, across / across.norm()


def force(energy, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(energy(x), x)[0]


def remaining(net, cluster):
    """How much of a change of the forces is left after a step a hundred times shorter."""
    energy, x, across = passing(net, cluster)
    step = torch.zeros_like(x)
    step[1] = across
    long, short = (
        (force(energy, x + h * step) - force(energy, x - h * step)).abs().max()
        for h in (1e-7, 1e-9)
    )
    return short / long


@pytest.mark.parametrize("kernel", SMOOTH)
def test_forces_are_continuous_where_a_neighbor_passes_an_orientation(kernel, cluster):
    assert remaining(network(kernel), cluster) < 0.02


def test_the_published_attributes_make_forces_jump_there(cluster):
    assert remaining(network("polynomial"), cluster) > 0.5


@pytest.mark.parametrize("kernel", SMOOTH)
@pytest.mark.parametrize("scene", ["aligned", "crystal"])
def test_second_derivatives_exist_also_for_aligned_neighbors(kernel, scene, make_cluster):
    c = make_cluster(atoms=8)
    net = network(kernel, "lebedev14")
    if scene == "crystal":  # all neighbours lie on the grid's own directions
        c.positions = 1.7 * torch.tensor(
            [[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=torch.float64
        )
        energy, x = energy_of(net, c, given(c)), c.positions
    else:
        energy, x, _ = passing(net, c)
    direction = c.normal(*x.shape)
    _, product = torch.autograd.functional.hvp(energy, x, direction)
    h = 1e-5
    differences = (force(energy, x + h * direction) - force(energy, x - h * direction)) / (2 * h)
    assert product.isfinite().all()
    assert (product - differences).abs().max() < 1e-5 * product.abs().max()


@pytest.mark.parametrize("kernel", ["smooth polynomial", "legendre"])
@pytest.mark.parametrize("heads", [0, 2])
def test_energies_and_forces_are_continuous_at_the_cutoff(kernel, heads):
    net = network(kernel, heads=heads)
    pair, _ = neighbor_blocks(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.zeros(2, 3), 2)
    alone, _ = neighbor_blocks(*torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, 3), 2)
    generator = torch.Generator().manual_seed(0)
    scalars = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    vectors_in = torch.randn(2, 1, 3, generator=generator, dtype=torch.float64)
    inputs = dict(scalars=scalars, vectors_in=vectors_in)
    r = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    apart = net(r[:0], alone, **inputs).scalars
    for inside, tolerance in ((1e-3, 1e-6), (1e-4, 1e-9)):
        v = (r * CUTOFF * (1 - inside)).requires_grad_()
        energy = net(v, pair, **inputs).scalars
        (slope,) = torch.autograd.grad(energy.sum(), v)
        assert (energy - apart).abs().max() < tolerance
        assert slope.abs().max() < 1e3 * tolerance
    assert torch.equal(net(r * CUTOFF, pair, **inputs).scalars, apart)


def test_single_precision_agrees(cluster):
    inputs = given(cluster)
    out = [
        network(kernel, dtype=dtype)(cluster.vectors(), cluster.neighbors, **inputs)
        for kernel in ("polynomial", "legendre")
        for dtype in (torch.float32, torch.float64)
    ]
    for single, double in (out[:2], out[2:]):
        assert single.scalars.dtype == torch.float32
        assert (single.scalars - double.scalars).abs().max() < 1e-4
        assert (single.vectors - double.vectors).abs().max() < 1e-4


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("atoms", [0, 1])
def test_no_edges_and_no_atoms(kernel, atoms, cluster):
    none = torch.zeros(0, dtype=torch.long)
    empty, _ = neighbor_blocks(none, none, torch.zeros(0, 3), atoms)
    vectors = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    out = network(kernel, heads=1)(vectors, empty, **given(cluster, atoms))
    assert out.scalars.shape == (atoms, 1)
    assert out.tensors.shape == (atoms, 1, 3, 3)
    assert out.scalars.isfinite().all()
    out.scalars.sum().backward()


@pytest.mark.parametrize("kernel", ["polynomial", "legendre"])
def test_calibration_keeps_spreads_and_does_nothing_twice(kernel, cluster):
    net, inputs = network(kernel), given(cluster)
    args = (cluster.vectors(), cluster.neighbors)
    net.calibrate(*args, **inputs)
    x, context = net._begin(*args, inputs["scalars"], inputs["vectors_in"], *[None] * 4)
    samples, _, weights, neighbors, *_ = context
    block = net.blocks[0]
    y = block.spread(x, samples, weights, neighbors)
    assert torch.isclose(y.std(), x.std(), rtol=1e-6)
    once = {k: v.clone() for k, v in net.state_dict().items()}
    net.calibrate(*args, **inputs)
    for name, value in net.state_dict().items():
        assert torch.allclose(value, once[name], rtol=1e-6)


def test_conditions_pair_scalars_and_attention_matter_and_turn(cluster):
    for kernel in ("polynomial", "legendre"):
        net = network(kernel, condition=3, pair_scalars=1, heads=2)
        inputs = given(cluster) | dict(
            condition=cluster.normal(6, 3),
            pair_scalars=cluster.normal(len(cluster.neighbors.first), 1),
        )
        before = net(cluster.vectors(), cluster.neighbors, **inputs)
        turn = rotation_group(net.grid)[0][11]
        after = net(cluster.vectors() @ turn.T, cluster.neighbors, **turned(inputs, turn))
        assert_turned(after, before, turn)
        for name in ("condition", "pair_scalars"):
            changed = inputs | {name: 2 * inputs[name]}
            other = net(cluster.vectors(), cluster.neighbors, **changed)
            assert (other.scalars - before.scalars).abs().max() > 1e-4


@pytest.mark.parametrize("kernel", ["polynomial", "legendre"])
def test_graphs_that_are_padded_for_compilers(kernel, cluster):
    n = len(cluster.senders)
    padded, _ = neighbor_blocks(
        cluster.senders, cluster.receivers, torch.zeros(n, 3), cluster.atoms, padded=True
    )
    lonely, _ = neighbor_blocks(
        torch.tensor([0, 1]), torch.tensor([1, 0]), torch.zeros(2, 3), 6, padded=True
    )
    net, inputs = network(kernel), given(cluster)
    a, b = (net(cluster.vectors(), g, **inputs) for g in (cluster.neighbors, padded))
    assert (a.scalars - b.scalars).abs().max() < 1e-13
    vectors = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 2 * CUTOFF]], dtype=torch.float64)
    far = net(vectors, lonely, **inputs).scalars
    vectors[1] *= 2  # a pair that does not exist
    assert torch.equal(net(vectors, lonely, **inputs).scalars, far)


@needs_compiler
@pytest.mark.parametrize("kernel", ["polynomial", "legendre"])
def test_training_on_forces_can_be_traced_with_the_fused_kernels(kernel, cluster):
    net, inputs = network(kernel), given(cluster)
    weights = [p for p in net.parameters() if p.ndim == 2]

    def step(x):
        x = x.detach().requires_grad_()
        energy = net(cluster.neighbors.differences(x), cluster.neighbors, **inputs).scalars.sum()
        (gradient,) = torch.autograd.grad(energy, x, create_graph=True)
        loss = gradient.square().sum() + energy**2
        return [gradient, *torch.autograd.grad(loss, weights, allow_unused=True)[:3]]

    traced = make_fx(step, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    graph = traced(cluster.positions)
    assert any("equiv" in str(node.target) for node in graph.graph.nodes)
    for a, b in zip(graph(cluster.positions), step(cluster.positions), strict=True):
        assert (a - b).abs().max() <= 1e-11 * b.abs().max()


def test_networks_of_the_plane(make_cluster):
    c = make_cluster(dim=2)
    for kernel in (PolynomialKernel(8, 8), LegendreKernel(3, LogRadialBasis(5, 0.3, 8.0))):
        net = OrientationNetwork(
            grid=orientation_grid("circle", 8),
            kernel=kernel,
            inputs=Channels(scalars=1),
            outputs=Channels(1, 1, 1),
            channels=6,
            layers=2,
            mean_neighbors=5.0,
        ).double()
        scalars = c.normal(6, 1)
        before = net(c.vectors(), c.neighbors, scalars=scalars)
        for turn in rotation_group(net.grid)[0][1:4]:
            after = net(c.vectors() @ turn.T, c.neighbors, scalars=scalars)
            assert_turned(after, before, turn)


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("cutoff", [None, 7.0])
def test_point_clouds_turn_exactly(improper, cutoff, cluster):
    torch.manual_seed(0)
    net = PointCloudNetwork(
        inputs=Channels(2, 1, 1),
        outputs=Channels(1, 2, 1),
        channels=6,
        layers=2,
        mean_neighbors=5.0,
        cutoff=cutoff,
    ).double()
    turn = random_rotations(generator=cluster.generator, improper=improper)
    vectors = cluster.positions[cluster.senders] - cluster.positions[cluster.receivers]
    inputs, t = given(cluster), cluster.normal(6, 1, 3, 3)
    t = t + t.mT
    edges = (cluster.senders, cluster.receivers, cluster.atoms)
    before = net(vectors, *edges, **inputs, tensors_in=t)
    rotated = turned(inputs, turn) | {"tensors_in": turn @ t @ turn.T}
    after = net(vectors @ turn.T, *edges, **rotated)
    assert (after.scalars - before.scalars).abs().max() < 1e-12
    assert (after.vectors - before.vectors @ turn.T).abs().max() < 1e-12
    assert (after.tensors - turn @ before.tensors @ turn.T).abs().max() < 1e-12
    assert before.vectors.abs().max() > 1e-3


def test_points_are_linked_along_edges_and_within_places():
    senders, receivers = torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1])
    graph = cloud_graph(senders, receivers, 3)
    links = set(
        zip(*(t.tolist() for t in (graph.senders, graph.receivers, graph.edges)), strict=True)
    )
    # Points 0 and 1 stand at atom 0, point 2 at atom 1, none at atom 2.
    along = {(2, 0, 0), (2, 1, 0), (0, 2, 2), (1, 2, 2)}
    within = {(a, b, 3) for a in (0, 1) for b in (0, 1)} | {(2, 2, 3)}
    assert links == along | within


def test_points_come_and_go_smoothly(cluster):
    torch.manual_seed(0)
    net = PointCloudNetwork(
        inputs=Channels(2),
        outputs=Channels(1),
        channels=6,
        layers=2,
        mean_neighbors=2.0,
        cutoff=3.0,
    ).double()
    scalars = cluster.normal(3, 2)

    def energy(senders, receivers, x):
        vectors = x[senders] - x[receivers]
        return net(vectors, senders, receivers, 3, scalars=scalars).scalars.sum()

    near = torch.tensor([0, 1]), torch.tensor([1, 0])
    far = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 0, 2, 1])
    x = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [1.2, 3.0 * (1 - 1e-4), 0]], dtype=torch.float64)
    assert (energy(*near, x) - energy(*far, x)).abs() < 1e-9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: network(mean_neighbors=0.0), "mean_neighbors must be positive"),
        (lambda c: network(readouts="first"), "expected one of 'all', 'last'"),
        (lambda c: network(heads=3), "heads must divide the 8 channels"),
        (
            lambda c: network()(c.vectors(), c.neighbors, scalars=c.normal(6, 3)),
            "scalars should have 2 channels, got 3",
        ),
        (lambda c: LegendreKernel(-1, LogRadialBasis(4, 1.0, 2.0)), "l_max cannot be negative"),
        (lambda c: PolynomialKernel(degree=0), "degree must be at least 1"),
        (lambda c: LogRadialBasis(1, 1.0, 2.0), "at least two functions"),
    ],
)
def test_errors_say_what_is_wrong(call, words, cluster):
    with pytest.raises(EquivError, match=words):
        call(cluster)
