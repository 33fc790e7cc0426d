"""No layer and no model escapes the laws."""

import importlib
import inspect
import pkgutil

import torch

import equiv.hamiltonian
import equiv.long_range
import equiv.message_passing
import equiv.models
import equiv.nn
import equiv.position_orientation
import equiv.tensor_products
from equiv.constants import ExactConstants
from equiv.hamiltonian.gates import PairGate
from equiv.hamiltonian.path_sparsity import SelectedPaths
from equiv.hamiltonian.standardise import BlockStandardisation
from equiv.message_passing.rank_one import RankOneConvolution
from equiv.models import MODELS as REGISTRY
from equiv.models import AbstractModel, Model
from equiv.models.ponita_networks import BandLimitedLayers
from equiv.nn.path_gate import PathGate
from equiv.nn.sparsity_schedule import SparsitySchedule
from equiv.position_orientation import OrientationGrid
from equiv.position_orientation.block import ResidualPerceptron
from equiv.tensor_products import (
    GauntTensorProduct,
    PathTensorProduct,
    SphericalTensorProduct,
    TensorProduct,
)
from equiv.tensor_products.odd_couplings import OddCouplingTensorProduct
from equiv.tensor_products.pointwise import PointwiseProduct
from equiv.tensor_products.powers import PowerProduct

from .table import LAYERS, MODEL_KINDS, MODELS, OTHER_MODELS

# Bases that compute nothing themselves.
BASES = {
    BandLimitedLayers,
    ExactConstants,
    GauntTensorProduct,
    OddCouplingTensorProduct,
    OrientationGrid,
    PathTensorProduct,
    PowerProduct,
    RankOneConvolution,
    ResidualPerceptron,
    SphericalTensorProduct,
    TensorProduct,
}
# They choose what others compute.
CHOICES = {PairGate, PathGate, SparsitySchedule}
# Parts of products and layers that are in the table; a map of blocks with tests of its own.
PARTS = (BlockStandardisation, PointwiseProduct, SelectedPaths)
PACKAGES = (
    equiv.hamiltonian,
    equiv.long_range,
    equiv.nn,
    equiv.message_passing,
    equiv.tensor_products,
    equiv.models,
    equiv.position_orientation,
)


def public_modules():
    """Concrete public ``nn.Module`` classes defined in the packages, wherever they are exported."""
    found = set()
    for package in PACKAGES:
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            module = importlib.import_module(info.name)
            for name, kind in inspect.getmembers(module, inspect.isclass):
                if (
                    issubclass(kind, torch.nn.Module)
                    and kind.__module__ == info.name
                    and not name.startswith("_")
                    and not inspect.isabstract(kind)
                ):
                    found.add(kind)
    return {kind for kind in found - BASES - CHOICES if not issubclass(kind, PARTS)}


def test_every_public_module_is_in_the_table():
    covered = {entry.kind for entry in LAYERS} | {*MODEL_KINDS, *OTHER_MODELS}
    missing = sorted(f"{k.__module__}.{k.__name__}" for k in public_modules() - covered)
    assert not missing, f"add to tests/laws/table.py: {', '.join(missing)}"


def test_the_search_finds_what_is_known_to_be_there():
    names = {kind.__name__ for kind in public_modules()}
    assert {"BesselBasis", "SphericalLinear", "ManyBodyProduct", "MACE"} <= names


def test_every_registered_model_is_in_the_table():
    assert all(issubclass(kind, AbstractModel) for kind in REGISTRY.values())
    potentials = {kind for kind in REGISTRY.values() if issubclass(kind, Model)}
    assert potentials <= {type(build()) for build in MODELS.values()}
    assert set(REGISTRY.values()) - potentials <= set(OTHER_MODELS)


def test_names_in_the_table_are_unique():
    names = [entry.name for entry in LAYERS]
    assert len(set(names)) == len(names)
