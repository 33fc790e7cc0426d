"""Out of a mace-torch file: the arguments its model was made with, and its weights."""

import os
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from equiv.errors import ModelFileError
from equiv.integrations.mace_torch.admitted import CALLS, admits
from equiv.integrations.mace_torch.inert_pickle import Global, Instance
from equiv.integrations.mace_torch.modules import Module, module_tree
from equiv.integrations.mace_torch.torch_file import TorchFile

PathLike = str | os.PathLike[str]


@dataclass
class TorchMACE:
    """A model of mace-torch as data.

    Attributes:
        configuration: arguments of mace-torch's constructor, JSON-able.
        state: parameters and buffers, named as in its state dict.
    """

    configuration: dict[str, Any]
    state: dict[str, Tensor]


def read_mace_torch(path: PathLike) -> TorchMACE:
    """Read a ``.model`` file of mace-torch without mace-torch, e3nn or Python's unpickler.

    The pickle in the file is interpreted as data: whatever it says, nothing of it is run
    (:mod:`equiv.integrations.mace_torch.inert_pickle`).

    Raises:
        ModelFileError: the file is damaged, foreign, asks for code, or holds another model.
    """
    try:
        file = TorchFile(path, admits=admits, calls=CALLS)
        try:
            tree = module_tree(file)
            return TorchMACE(_configuration(tree), tree.state_dict())
        finally:
            file.close()
    except ModelFileError as error:
        raise ModelFileError(f"{os.fspath(path)}: {error}") from error.__cause__


_CHILDREN = {
    "MACE": "node_embedding radial_embedding spherical_harmonics atomic_energies_fn interactions "
    "products readouts pair_repulsion_fn joint_embedding embedding_readout scale_shift",
    "RadialEmbeddingBlock": "bessel_fn distance_transform cutoff_fn",
    "EquivariantProductBasisBlock": "symmetric_contractions linear",
    "Interaction": "linear_up conv_tp conv_tp_weights linear skip_tp reshape density_fn "
    "linear_down skip_linear source_embedding target_embedding equivariant_nonlin linear_res "
    "linear_1 linear_2",
    "Readout": "linear linear_1 linear_2 linear_mid non_linearity",
}
_RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
_TRANSFORMS = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}


def _configuration(model: Module) -> dict[str, Any]:
    if model.kind not in ("MACE", "ScaleShiftMACE"):
        raise ModelFileError(f"it holds a {model.kind}, not a MACE or ScaleShiftMACE of mace-torch")
    _only_children(model, "MACE")
    interactions = _list(model, "interactions")
    products = _list(model, "products")
    readouts = _list(model, "readouts")
    radial = _child(model, "radial_embedding")
    _only_children(radial, "RadialEmbeddingBlock")
    harmonics = _child(model, "spherical_harmonics")
    if not interactions or len(products) != len(interactions):
        raise ModelFileError("its interactions and products do not match; the file is damaged")
    for module in interactions:
        _only_children(module, "Interaction")
        _no_accelerator(module)
    for module in products:
        _only_children(module, "EquivariantProductBasisBlock")
        _no_accelerator(module)
    for module in readouts:
        _only_children(module, "Readout")
    if harmonics.attributes.get("normalization") != "component" or not harmonics.attributes.get(
        "normalize"
    ):
        raise ModelFileError("its spherical harmonics are not those of mace-torch")
    heads = model.attributes.get("heads") or ["Default"]
    edge_irreps = _irreps(harmonics.attributes.get("irreps_out"))
    last = readouts[-1] if readouts else None
    configuration: dict[str, Any] = {
        "model": model.kind,
        "r_max": _number(model.tensors.get("r_max"), "r_max"),
        "num_bessel": int(radial.attributes.get("out_dim", 0)),
        "num_polynomial_cutoff": int(_number(_tensor(radial, "cutoff_fn", "p"), "cutoff_fn.p")),
        "max_ell": max(l for _, l, _ in edge_irreps),
        "use_so3": any(p != (-1) ** l for _, l, p in edge_irreps),
        "interaction_cls_first": interactions[0].kind,
        "interaction_cls": _same([m.kind for m in interactions[1:]], "interaction_cls")
        or interactions[0].kind,
        "num_interactions": len(interactions),
        "hidden_irreps": _text(products[0].children["linear"].attributes.get("irreps_in")),
        "avg_num_neighbors": _same(
            [
                _number(m.attributes.get("avg_num_neighbors"), "avg_num_neighbors")
                for m in interactions
            ],
            "avg_num_neighbors",
        ),
        "atomic_numbers": [int(z) for z in _of(model.tensors, "atomic_numbers").tolist()],
        "correlation": [_correlation(m) for m in products],
        "radial_MLP": _widths(interactions[0]),
        "gate": _gate(last),
        "radial_type": _named(_child(radial, "bessel_fn"), _RADIAL, "radial basis"),
        "distance_transform": _named(
            radial.children.get("distance_transform"), _TRANSFORMS, "distance transform"
        ),
        "apply_cutoff": bool(radial.attributes.get("apply_cutoff", True)),
        "pair_repulsion": "pair_repulsion_fn" in model.children,
        "edge_irreps": [_text(m.attributes.get("edge_irreps")) for m in interactions],
        "use_agnostic_product": _same(
            [bool(m.attributes.get("use_agnostic_product", False)) for m in products],
            "use_agnostic_product",
        ),
        "use_last_readout_only": len(readouts) < len(interactions),
        "readout_cls": last.kind if last is not None else None,
        "keep_last_layer_irreps": len(products) > 1
        and len(_irreps(products[-1].children["linear"].attributes.get("irreps_in"))) > 1,
        "embedding_specs": model.attributes.get("embedding_specs") and "present",
        "use_embedding_readout": "embedding_readout" in model.children,
        "heads": [str(head) for head in heads],
        "activation_gains": _gains(model),
    }
    if "joint_embedding" in model.children:
        configuration["embedding_specs"] = "present"
    if not all(isinstance(head, str) for head in heads):
        raise ModelFileError("its heads have no names; the file is damaged")
    mlp = (
        _irreps(last.attributes.get("hidden_irreps"))
        if last and "hidden_irreps" in last.attributes
        else []
    )
    width = sum(count for count, l, p in mlp)
    if any((l, p) != (0, 1) for _, l, p in mlp) or width % len(heads):
        raise ModelFileError(f"its last readout has the irreps {mlp}, not scalars of every head")
    configuration["MLP_irreps"] = f"{max(width // len(heads), 1)}x0e"
    return configuration


def _only_children(module: Module, group: str) -> None:
    unknown = set(module.children) - set(_CHILDREN[group].split())
    if unknown:
        raise ModelFileError(
            f"its {module.kind} holds a part {sorted(unknown)[0]!r} that mace-torch 0.3 does not "
            "have; the model is not converted"
        )


def _no_accelerator(module: Module) -> None:
    for name in ("cueq_config", "oeq_config"):
        config = module.attributes.get(name)
        if isinstance(config, Instance) and config.attributes.get("enabled"):
            raise ModelFileError(
                f"it was saved with an accelerator ({name}); write it without, with mace-torch's "
                "`mace_cueq_to_e3nn`, and convert the result"
            )


def _child(module: Module, name: str) -> Module:
    if name not in module.children:
        raise ModelFileError(f"its {module.kind} lacks {name}; the file is damaged")
    return module.children[name]


def _list(module: Module, name: str) -> list[Module]:
    return list(_child(module, name).children.values())


def _of(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ModelFileError(f"it lacks the tensor {name}; the file is damaged")
    return tensors[name]


def _tensor(module: Module, child: str, name: str) -> Tensor:
    return _of(_child(module, child).tensors, name)


def _number(value: Any, name: str) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value.item())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ModelFileError(f"its {name} is no number; the file is damaged")


def _same(values: list[Any], name: str) -> Any:
    if any(value != values[0] for value in values):
        raise ModelFileError(f"its layers have different {name}: {values}; such are not converted")
    return values[0] if values else None


def _irreps(value: Any) -> list[tuple[int, int, int]]:
    """Multiplicity, degree and parity of every term of irreps of e3nn."""
    try:
        if isinstance(value, str):
            return [
                (int(count), int(ir[:-1]), {"e": 1, "o": -1}[ir[-1]])
                for count, ir in (term.strip().split("x") for term in value.split("+"))
            ]
        terms = value.arguments[0] if value.arguments else ()
        found = []
        for term in terms:
            count, irrep = term.arguments[0]
            degree, parity = irrep.arguments[0]
            found.append((int(count), int(degree), int(parity)))
        return found
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError("it holds irreps that cannot be read; the file is damaged") from error


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return "+".join(f"{count}x{l}{'e' if p == 1 else 'o'}" for count, l, p in _irreps(value))


def _named(module: Module | None, names: dict[str, str], what: str) -> str | None:
    if module is None:
        return None
    if module.kind not in names:
        raise ModelFileError(f"its {what} {module.kind} has no counterpart here; not converted")
    return names[module.kind]


def _correlation(product: Module) -> int:
    contractions = _list(_child(product, "symmetric_contractions"), "contractions")
    return _same([int(c.attributes.get("correlation", 0)) for c in contractions], "correlation")


def _widths(interaction: Module) -> list[int]:
    """Hidden widths of the radial network."""
    widths = _child(interaction, "conv_tp_weights").attributes.get("hs")
    if not isinstance(widths, list) or not all(isinstance(w, int) for w in widths):
        raise ModelFileError("its radial networks have no widths; the file is damaged")
    return widths[1:-1]


def _gate(readout: Module | None) -> str:
    """The activation of the last readout, by name."""
    if readout is None or "non_linearity" not in readout.children:
        return "silu"
    acts = list(_child(readout.children["non_linearity"], "acts").children.values())
    if not acts:
        return "None"
    function = acts[0].attributes.get("f")
    if not isinstance(function, Global):
        raise ModelFileError("the activation of its last readout cannot be named; not converted")
    return function.name


def _gains(model: Module) -> dict[str, float]:
    """The factors e3nn puts before activations, as found in the file."""
    gains: dict[str, float] = {}
    for path, module in model.walk():
        if module.kind == "normalize2mom":
            function, gain = module.attributes.get("f"), module.attributes.get("cst")
            if not isinstance(function, Global) or not isinstance(gain, float):
                raise ModelFileError(f"{path} is no activation of e3nn; the file is damaged")
            if gains.setdefault(function.name, gain) != gain:
                raise ModelFileError(f"{path} is normalised differently than others; not converted")
    return gains
