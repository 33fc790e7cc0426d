"""What anything that can be trained and kept in a model file is to the rest of the package."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar

import torch
from ase.data import chemical_symbols
from jaxtyping import Int
from torch import Tensor, nn

from equiv.errors import UnknownElementError

UNITS: Mapping[str, str] = {"energy": "eV", "length": "Angstrom"}


class AbstractModel(nn.Module, ABC):
    """A map from a batch to a prediction that a recipe can name and a model file can hold.

    What batch and prediction are is a matter between the model and the task it is trained for
    (:class:`equiv.train.task.Task`). Interatomic potentials, :class:`equiv.models.Model`, are one
    family of these.

    Attributes:
        name: key of the architecture in the registry and in recipes.
        units: of what the model takes and gives.
        elements: atomic numbers the model knows, ascending; empty if it does not tell elements
            apart.
        cutoff: radius of the neighbour list in units of length, or None if it takes no such list.
        recipe: the constructor's arguments as resolved, JSON-able: ``type(model)(**model.recipe)``
            rebuilds it.
        card: what a reader of the model file should know (level of theory, data, errors, licence),
            JSON-able.
    """

    name: ClassVar[str]
    units: Mapping[str, str] = UNITS
    elements: tuple[int, ...]
    cutoff: float | None
    recipe: dict[str, Any]

    def __init__(self, elements: Sequence[int] = (), cutoff: float | None = None) -> None:
        super().__init__()
        self.elements = tuple(sorted(elements))
        self.cutoff = None if cutoff is None else float(cutoff)
        self.card: dict[str, Any] = {}

    @abstractmethod
    def forward(self, batch: Any) -> Any:
        """Predict a batch."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def species(self, atomic_numbers: Int[Tensor, " atoms"]) -> Int[Tensor, " atoms"]:
        """Positions of the atoms' elements in :attr:`elements`.

        Raises:
            UnknownElementError: there are others.
        """
        known = atomic_numbers.new_tensor(self.elements)
        index = torch.searchsorted(known, atomic_numbers).clamp(max=len(self.elements) - 1)
        unknown = atomic_numbers[known[index] != atomic_numbers]
        if unknown.numel():
            symbols = ", ".join(chemical_symbols[z] for z in sorted(set(unknown.tolist())))
            trained = ", ".join(chemical_symbols[z] for z in self.elements)
            raise UnknownElementError(
                f"the structure holds {symbols}, but this model was trained on {trained} only; "
                "train a model on data with these elements"
            )
        return index

    @classmethod
    def construction_size(cls, recipe: dict[str, Any]) -> int:
        """How many constants the constructor computes for this recipe, cheaply and before it does.

        Model files are refused whose recipe would compute more than could be meant. The recipe may
        hold anything; whatever this raises counts as a refusal.
        """
        return 0

    def advance(self, step: int) -> None:
        """Called after every optimizer step, for architectures with a schedule of their own."""

    @property
    def stage(self) -> int:
        """The phase of such a schedule.

        The best epoch is sought anew in every stage, so that the weights that are kept belong to
        the last one.
        """
        return 0

    def compact(self) -> "AbstractModel":
        """The same model without what it never computes; itself if it computes everything.

        Raises:
            EquivError: what it computes may still change.
        """
        return self

    @property
    def kept_paths(self) -> Mapping[str, tuple[int, int]]:
        """By layer, how many coupling paths are computed, of how many there are weights for."""
        return {}

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model file (:func:`equiv.models.file.save_model`)."""
        from equiv.models.file import save_model

        save_model(self, path)
