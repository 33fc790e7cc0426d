"""Models of mace-torch, turned into ours with the same numbers."""

from equiv.integrations.mace_torch.reading import TorchMACE, read_mace_torch
from equiv.integrations.mace_torch.state import mace_from_state_dict

__all__ = ["TorchMACE", "mace_from_state_dict", "read_mace_torch"]
