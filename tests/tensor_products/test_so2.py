import pytest
import torch

from equiv import EquivError
from equiv.so3 import irreps_matrix, random_rotations, spherical_harmonics
from equiv.tensor_products import ClebschGordanTensorProduct
from equiv.tensor_products.so2 import SO2TensorProduct

FEATURES = "3x0e + 3x1o + 3x2e + 3x1e + 3x2o"
CASES = {
    "natural": ("3x0e+3x1o+3x2e", "0e+1o+2e+3o", "3x0e+3x1o+3x2e+3x3o"),
    "natural to both parities": ("3x0e+3x1o+3x2e", "0e+1o+2e", FEATURES),
    "both parities": (FEATURES, "0e+1o+2e+3o+4e", FEATURES),
    "scalars": ("3x0e", "0e+1o+2e", "3x0e+3x1o+3x2e"),
    "to scalars, another order": ("3x2e+3x0e+3x1o", "2e+1o+0e", "3x0e"),
    "scalar edges": ("3x0e+3x1o", "0e", "3x0e+3x1o"),
    "terms without channels": ("3x0e+0x1o+3x2e", "0e+1o", "3x1o+0x2e+3x2e"),
}


def edges(rows=9, seed=0, dtype=torch.float64):
    """Vectors of edges; some lie along the axes, where angles would be singular."""
    g = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, 3, generator=g, dtype=torch.float64)
    special = torch.tensor([[0, 2, 0], [0, -1, 0], [1, 0, 0], [0, 0, -3], [1e-9, -1, 0]])
    vectors[: len(special)] = special
    return vectors.to(dtype)


def harmonics(irreps, vectors):
    degrees = [ir.l for _, ir in irreps]
    y = spherical_harmonics(max(degrees), vectors)
    return torch.cat([y[..., l * l : (l + 1) ** 2] for l in degrees], dim=-1)


def both(case, mode="uvu", **options):
    kinds = (SO2TensorProduct, ClebschGordanTensorProduct)
    return [
        kind(*CASES[case], mode=mode, internal_weights=False, **options).double() for kind in kinds
    ]


def inputs(product, vectors, weight_rows=(), seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(len(vectors), product.irreps_in1.dim, generator=g, dtype=torch.float64)
    weight = torch.randn(*weight_rows, product.weight_numel, generator=g, dtype=torch.float64)
    return x, harmonics(product.irreps_in2, vectors), weight


@pytest.mark.parametrize("rows", [(), (9,)], ids=["shared", "external"])
@pytest.mark.parametrize("mode", ["uvu", "uvw"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_clebsch_gordan_product_with_harmonics(case, mode, rows):
    so2, clebsch_gordan = both(case, mode)
    x, y, weight = inputs(so2, edges(), rows)
    torch.testing.assert_close(so2(x, y, weight), clebsch_gordan(x, y, weight), atol=1e-12, rtol=0)


def test_it_equals_it_with_every_edge_degree_up_to_six():
    irreps = "+".join(f"2x{l}{'eo'[l % 2]}" for l in range(4))
    harmonics_6 = "+".join(f"{l}{'eo'[l % 2]}" for l in range(7))
    options = {"internal_weights": False, "mode": "uvu"}
    so2, reference = (
        kind(irreps, harmonics_6, irreps, **options).double()
        for kind in (SO2TensorProduct, ClebschGordanTensorProduct)
    )
    x, y, weight = inputs(so2, edges(), (9,))
    torch.testing.assert_close(so2(x, y, weight), reference(x, y, weight), atol=1e-12, rtol=0)


def test_there_are_as_many_numbers_in_the_frame_as_path_weights():
    irreps = "+".join(f"1x{l}{'eo'[l % 2]}+1x{l}{'oe'[l % 2]}" for l in range(4))
    harmonics_6 = "+".join(f"{l}{'eo'[l % 2]}" for l in range(7))
    so2 = SO2TensorProduct(irreps, harmonics_6, irreps).double()
    for (i, o), paths in so2._pairs.items():
        coupling = getattr(so2, f"coupling_{i}_{o}")
        independent = min(so2._l1[i], so2._l3[o]) + (not so2._odd[i, o])
        assert torch.linalg.matrix_rank(coupling) == len(paths) == independent


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("case", ["natural to both parities", "both parities"])
def test_rotations_and_reflections_commute_with_it(case, improper):
    so2, _ = both(case)
    vectors = edges()
    x, y, weight = inputs(so2, vectors)
    g = torch.Generator().manual_seed(3)
    rotation = random_rotations(generator=g, improper=improper)
    turned = so2(
        x @ irreps_matrix(so2.irreps_in1, rotation).mT,
        harmonics(so2.irreps_in2, vectors @ rotation.T),
        weight,
    )
    expected = so2(x, y, weight) @ irreps_matrix(so2.irreps_out, rotation).mT
    torch.testing.assert_close(turned, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("mode", ["uvu", "uvw"])
def test_forces_and_their_gradients_are_those_of_clebsch_gordan(mode):
    """Second derivatives included, also of edges along the poles and on the equator."""
    results = []
    for product in both("natural to both parities", mode):
        vectors = edges().requires_grad_()
        x, _, weight = inputs(product, vectors, (9,))
        x.requires_grad_()
        weight.requires_grad_()
        y = harmonics(product.irreps_in2, vectors)
        energy = product(x, y, weight).square().sum()
        first = torch.autograd.grad(energy, (vectors, x, weight), create_graph=True)
        second = torch.autograd.grad(
            sum(gradient.square().sum() for gradient in first), (vectors, x, weight)
        )
        results.append([energy, *first, *second])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)


def test_gradients_of_vectors_by_finite_differences():
    so2, _ = both("natural")
    x, _, weight = inputs(so2, edges(6))

    def from_vectors(vectors):
        return so2(x, harmonics(so2.irreps_in2, vectors), weight)

    vectors = edges(6)[:4].requires_grad_()
    x = x[:4]
    assert torch.autograd.gradcheck(from_vectors, (vectors,))
    assert torch.autograd.gradgradcheck(from_vectors, (vectors,))


@pytest.mark.parametrize("mode", ["uvu", "uvw"])
def test_frames_can_be_shared(mode):
    small = SO2TensorProduct("3x0e", "0e+1o+2e", "3x0e+3x1o+3x2e", mode=mode).double()
    large = SO2TensorProduct("3x0e+3x1o+3x2e", "0e+1o+2e", "3x1o+3x0e", mode=mode).double()
    vectors = edges(12).view(4, 3, 3)
    frames = large.frames(vectors)
    y = spherical_harmonics(2, vectors).unsqueeze(-1)
    g = torch.Generator().manual_seed(2)
    x = torch.randn(4, 3, 1, 3, generator=g, dtype=torch.float64)
    z = small.in_frames(x, frames)
    assert z.shape == (4, 3, 9, 3)
    torch.testing.assert_close(z, small.forward_spherical(x, y), atol=1e-13, rtol=0)
    torch.testing.assert_close(
        large.in_frames(z, frames), large.forward_spherical(z, y), atol=1e-13, rtol=0
    )
    with pytest.raises(EquivError, match="frames only degrees up to 0"):
        large.in_frames(z, frames[:1])
    with pytest.raises(EquivError, match=r"expected x\[\.\.\., 9, 3\]"):
        large.in_frames(x, frames)


def test_an_edge_without_length_leaves_scalars_and_finite_gradients():
    so2, clebsch_gordan = both("natural")
    vectors = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    x, y, weight = inputs(so2, vectors)
    z = so2(x, y, weight)
    torch.testing.assert_close(z[:, :3], clebsch_gordan(x, y, weight)[:, :3])
    assert (z[:, 3:] == 0).all()
    (gradient,) = torch.autograd.grad(z.square().sum(), vectors)
    assert (gradient == 0).all()


def test_single_precision_is_as_accurate_as_the_dtype():
    so2, _ = both("both parities")
    x, y, weight = inputs(so2, edges(50), (50,))
    expected = so2(x, y, weight)
    z = so2.float()(x.float(), y.float(), weight.float())
    assert (z - expected).abs().max() < 1e-5 * expected.square().mean().sqrt()


def test_no_rows():
    so2, _ = both("natural")
    x, y, weight = inputs(so2, edges()[:0])
    assert so2(x, y, weight).shape == (0, so2.irreps_out.dim)


@pytest.mark.parametrize("mode", ["uvu", "uvw"])
def test_it_compiles_whole(mode):
    so2 = SO2TensorProduct(*CASES["natural"], mode=mode)
    x, y, _ = (t.float() for t in inputs(so2, edges()))
    x.requires_grad_()
    compiled = torch.compile(so2, fullgraph=True, backend="aot_eager")
    for function in (compiled, so2):
        (gradient,) = torch.autograd.grad(function(x, y).square().sum(), x)
        if function is compiled:
            from_compiled = gradient
    torch.testing.assert_close(from_compiled, gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("irreps", ["2x0e+1o", "0e+1e", "0e+2e", "0e+1o+1o", "1o+2o"])
def test_only_harmonics_are_taken(irreps):
    with pytest.raises(EquivError, match="must be the harmonics of an edge"):
        SO2TensorProduct("2x0e", irreps, "2x0e")


def test_one_mode_at_a_time():
    with pytest.raises(EquivError, match="all paths must have mode uvu or all uvw"):
        SO2TensorProduct(
            "0e", "0e+1o", "0e+1o", instructions=[(0, 0, 0, "uvu", True), (0, 1, 1, "uvw", True)]
        )


def test_one_edge():
    so2, clebsch_gordan = both("both parities")
    x, y, weight = inputs(so2, edges()[:1])
    torch.testing.assert_close(so2(x, y, weight), clebsch_gordan(x, y, weight), atol=1e-12, rtol=0)
