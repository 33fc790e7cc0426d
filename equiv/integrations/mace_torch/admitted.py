"""Which classes a mace-torch model may hold, and what to say of those of other models."""

import struct
from typing import Any

from equiv.errors import ModelFileError
from equiv.integrations.mace_torch.inert_pickle import Call, Global, Instance

_BLOCKS = """
    AtomicEnergiesBlock EquivariantProductBasisBlock LinearNodeEmbeddingBlock LinearReadoutBlock
    NonLinearReadoutBlock NonLinearBiasReadoutBlock RadialEmbeddingBlock ScaleShiftBlock
    RealAgnosticInteractionBlock RealAgnosticResidualInteractionBlock
    RealAgnosticDensityInteractionBlock RealAgnosticDensityResidualInteractionBlock
    RealAgnosticAttResidualInteractionBlock RealAgnosticResidualNonLinearInteractionBlock
"""

_ADMITTED: dict[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "mace.modules.models": "MACE ScaleShiftMACE",
        "mace.modules.blocks": _BLOCKS,
        "mace.modules.radial": """
            AgnesiTransform BesselBasis ChebychevBasis GaussianBasis PolynomialCutoff RadialMLP
            SoftTransform ZBLBasis
        """,
        "mace.modules.irreps_tools": "reshape_irreps",
        "mace.modules.symmetric_contraction": "Contraction SymmetricContraction EmptyParam",
        "mace.modules.gate": "GatedEquivariantBlock",
        "mace.modules.wrapper_ops": "CuEquivarianceConfig OEQConfig",
        "mace.modules.embeddings": "GenericJointEmbedding",
        "e3nn.math._normalize_activation": "normalize2mom",
        "e3nn.nn._activation": "Activation",
        "e3nn.nn._extract": "Extract",
        "e3nn.nn._fc": "FullyConnectedNet _Layer",
        "e3nn.nn._gate": "Gate _Sortcut",
        "e3nn.o3._irreps": "Irrep Irreps _MulIr",
        "e3nn.o3._linear": "Instruction Linear",
        "e3nn.o3._spherical_harmonics": "SphericalHarmonics",
        "e3nn.o3._tensor_product._instruction": "Instruction",
        "e3nn.o3._tensor_product._sub": "FullyConnectedTensorProduct ElementwiseTensorProduct",
        "e3nn.o3._tensor_product._tensor_product": "TensorProduct",
        "torch": "Size device float32 float64",
        "torch._C": "_VariableFunctionsClass",
        "torch._C._nn": "silu",
        "torch.fx._symbolic_trace": "Tracer",
        "torch.fx.graph_module": "reduce_graph_module",
        "torch.nn.functional": "silu sigmoid tanh",
        "torch.nn.modules.activation": "SiLU Tanh Sigmoid",
        "torch.nn.modules.container": "ModuleList ModuleDict ParameterList Sequential",
        "torch.nn.modules.linear": "Identity Linear",
        "torch.nn.modules.normalization": "LayerNorm",
        "torch.nn.modules.sparse": "Embedding",
        "numpy": "dtype float64 float32 int64",
    }.items()
}

# What other models are made of, and what to do with them.
_OTHER = (
    (
        "cuequivariance_torch",
        "it holds modules of cuEquivariance (trained with --only_cueq); write it without them, "
        "with mace-torch's `mace_cueq_to_e3nn`, and convert the result",
    ),
    (
        "openequivariance",
        "it holds modules of OpenEquivariance; write it without them, with mace-torch's "
        "`mace.cli.convert_oeq_e3nn`, and convert the result",
    ),
    (
        "mace.modules.lora",
        "it holds LoRA layers that were not merged; call mace.modules.lora.merge_lora_weights on "
        "it in mace-torch's environment and save it again",
    ),
    ("mace.modules.extensions", "{name} has long-range terms that are not converted"),
    ("mace.modules.field_blocks", "its long-range terms are not converted"),
    ("les", "its latent Ewald summation is not converted"),
    (
        "mace.modules.models",
        "it is a {name}; only the potentials MACE and ScaleShiftMACE are converted, not models of "
        "dipoles and polarizabilities",
    ),
    (
        "mace.modules.blocks",
        "its {name} has no counterpart here and is not converted",
    ),
    (
        "mace.calculators",
        "it was exported for LAMMPS; give the .model file it was made from",
    ),
    ("cuequivariance", "it holds objects of cuEquivariance; write it with `mace_cueq_to_e3nn`"),
    (
        "mace",
        "{name} (of {module}) has no counterpart here; the model is not converted",
    ),
    (
        "torch.jit",
        "it holds compiled code; give the .model file that mace-torch wrote, not the compiled one",
    ),
)


def admits(named: Global) -> bool:
    """Whether a mace-torch model may name this.

    Raises:
        ModelFileError: it may not, and there is a remedy or a reason to tell.
    """
    if named.name in _ADMITTED.get(named.module, ()):
        return True
    for package, words in _OTHER:
        if f"{named.module}.".startswith(f"{package}."):
            raise ModelFileError(words.format(name=named.name[:60], module=named.module[:60]))
    return False


def _function(owner: Any, name: Any) -> Global:
    """Python pickles `torch.tanh` as an attribute of a class; nothing else may be looked up."""
    functions = Global("torch._C", "_VariableFunctionsClass")
    if owner != functions or name not in ("tanh", "abs", "sigmoid"):
        raise ModelFileError(
            f"the pickle in it asks for the attribute {str(name)[:60]!r} of something, which no "
            "mace-torch model needs; it is refused, and nothing of it was run"
        )
    return Global("torch", str(name))


_NUMPY = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i"}


def _number(kind: Any, raw: Any) -> float | int:
    """A scalar of numpy."""
    code = kind.arguments[0] if isinstance(kind, Instance) and kind.arguments else None
    if code not in _NUMPY or not isinstance(raw, bytes):
        raise ModelFileError("it holds a numpy object that is no plain number")
    return struct.unpack(_NUMPY[code], raw)[0]


CALLS: dict[Global, Call] = {
    Global("builtins", "getattr"): _function,
    Global("numpy.core.multiarray", "scalar"): _number,
    Global("numpy._core.multiarray", "scalar"): _number,
}
