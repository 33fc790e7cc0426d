"""Networks of functions of position and orientation: from invariants of pairs to whole nets."""

from equiv.position_orientation.attention import NeighborAttention
from equiv.position_orientation.block import OrientationBlock
from equiv.position_orientation.fiber import FiberConvolution
from equiv.position_orientation.grids import (
    ORIENTATION_GRIDS,
    OrientationGrid,
    orientation_grid,
    rotation_group,
)
from equiv.position_orientation.invariants import PAIR_INVARIANTS, PairInvariants
from equiv.position_orientation.legendre_kernel import LegendreConvolution, LegendreKernel
from equiv.position_orientation.lifting import Channels, Quantities, lift, readout
from equiv.position_orientation.network import NetworkOutput, OrientationNetwork
from equiv.position_orientation.official import from_official_state_dict
from equiv.position_orientation.point_cloud import CloudGraph, PointCloudNetwork, cloud_graph
from equiv.position_orientation.polynomial_kernel import PolynomialConvolution, PolynomialKernel
from equiv.position_orientation.radial import LogRadialBasis

__all__ = [
    "ORIENTATION_GRIDS",
    "PAIR_INVARIANTS",
    "Channels",
    "CloudGraph",
    "FiberConvolution",
    "LegendreConvolution",
    "LegendreKernel",
    "LogRadialBasis",
    "NeighborAttention",
    "NetworkOutput",
    "OrientationBlock",
    "OrientationGrid",
    "OrientationNetwork",
    "PairInvariants",
    "PointCloudNetwork",
    "PolynomialConvolution",
    "PolynomialKernel",
    "Quantities",
    "cloud_graph",
    "from_official_state_dict",
    "lift",
    "orientation_grid",
    "readout",
    "rotation_group",
]
