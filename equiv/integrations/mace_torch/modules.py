"""The tree of modules inside a pickled torch model, as data."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from equiv.errors import ModelFileError
from equiv.integrations.mace_torch.inert_pickle import Instance
from equiv.integrations.mace_torch.torch_file import StoredTensor, TorchFile

MAX_DEPTH = 32
MAX_MODULES = 100_000


@dataclass
class Module:
    """What is left of an `nn.Module` without its code.

    Attributes:
        kind: name of its class, such as ``ScaleShiftMACE``.
        package: name of the module its class comes from.
        attributes: plain attributes.
        tensors: parameters and buffers.
        children: submodules, in order.
    """

    kind: str
    package: str
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, "Module"] = field(default_factory=dict)

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers of the whole tree, named as torch does."""
        state = {f"{prefix}{name}": value for name, value in self.tensors.items()}
        for name, child in self.children.items():
            state.update(child.state_dict(f"{prefix}{name}."))
        return state

    def walk(self, path: str = "") -> Iterator[tuple[str, "Module"]]:
        """Every module below this one with its path, itself first."""
        yield path, self
        for name, child in self.children.items():
            yield from child.walk(f"{path}.{name}" if path else name)


def module_tree(file: TorchFile) -> Module:
    """The model in a file.

    Raises:
        ModelFileError: the file holds something else than a module, or a damaged one.
    """
    content = file.content
    if isinstance(content, dict):
        if "optimizer" in content and "model" in content:
            raise ModelFileError(
                "this is a checkpoint of a training run: it holds weights, but not the model they "
                "belong to. mace-torch writes NAME.model when the run ends; give that file"
            )
        raise ModelFileError(
            "it holds a dictionary, not a model (a state dict?); give the .model file that "
            "mace-torch wrote, or use equiv.integrations.mace_torch.mace_from_state_dict"
        )
    return _Reader(file).module(content, "model", 0)


class _Reader:
    def __init__(self, file: TorchFile) -> None:
        self.file, self.count = file, 0

    def module(self, content: Any, path: str, depth: int) -> Module:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_MODULES:
            raise ModelFileError(f"{path}: modules within modules without end; it is refused")
        if not isinstance(content, Instance):
            raise ModelFileError(f"{path} is no torch module")
        state = content.attributes
        if not state and content.arguments and isinstance(content.arguments[0], dict):
            state = content.arguments[0]  # torch.fx writes its modules so
        groups: dict[str, Any] = {
            key: state.get(key) for key in ("_parameters", "_buffers", "_modules")
        }
        if not all(isinstance(group, dict) for group in groups.values()):
            raise ModelFileError(f"{path} ({content.kind}) is no torch module")
        made = Module(content.kind.name, content.kind.module)
        for group in ("_parameters", "_buffers"):
            for name, stored in groups[group].items():
                if isinstance(stored, StoredTensor):
                    made.tensors[_name(name, path)] = self.file.tensor(stored)
                elif stored is not None:
                    raise ModelFileError(f"{path}.{name} is no tensor; the file is damaged")
        for name, child in groups["_modules"].items():
            if child is not None:
                made.children[_name(name, path)] = self.module(child, f"{path}.{name}", depth + 1)
        made.attributes = {
            key: self.file.tensor(value) if isinstance(value, StoredTensor) else value
            for key, value in state.items()
            if isinstance(key, str) and key not in groups
        }
        return made


def _name(name: Any, path: str) -> str:
    if not isinstance(name, str) or "." in name:
        raise ModelFileError(f"{path} has a member without a proper name; the file is damaged")
    return name
