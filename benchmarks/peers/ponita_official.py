"""The published PONITA, from a checkout of github.com/ebekkers/ponita, running with today's torch.

Needs torch and torch_geometric only: what the code wants of torch_scatter and torch_sparse for
fiber bundles is stood in for here, abstract methods that newer versions of torch_geometric demand
are waived, and vectors of whole graphs are summed over atoms (torch_geometric's pooling takes the
last axis but one, which for them are the channels).
"""

import contextlib
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def load_official(checkout: str | Path) -> Any:
    """The module ``ponita.models.ponita`` of a checkout."""
    if not (Path(checkout) / "ponita" / "models" / "ponita.py").exists():
        raise FileNotFoundError(f"{checkout} is no checkout of github.com/ebekkers/ponita")
    for name, contents in (
        ("torch_scatter", {"scatter_mean": _scatter_mean}),
        ("torch_sparse", {"SparseTensor": None}),
    ):
        if name not in sys.modules:
            module = ModuleType(name)
            module.__dict__.update(contents)
            sys.modules[name] = module
    from torch_geometric.transforms import BaseTransform

    BaseTransform.forward.__isabstractmethod__ = False
    BaseTransform.__abstractmethods__ = frozenset()
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    import ponita.models.ponita as official

    official.global_add_pool = _add_pool
    return official


def make_official(checkout: str | Path, *, points: Tensor | None = None, **settings: Any) -> Any:
    """A ``PonitaFiberBundle`` with everything drawn that it draws lazily, calibrated.

    Args:
        checkout: where the code is.
        points: grid to use instead of the random one. Shape ``[orientations, dim]``.
        settings: of ``Ponita``.
    """
    official = load_official(checkout)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        model = official.Ponita(**settings)
    if points is not None:
        transform = model.transform.transforms[0]
        name = "ori_grid_s1" if points.shape[1] == 2 else "ori_grid_s2"
        setattr(transform, name, points)
    return model


def prime(model: Any, graph: Any) -> None:
    """Run a calibrating forward pass, as the first step of a training does."""
    model.train()
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        model(graph.clone())
    model.eval()


def _scatter_mean(x: Tensor, index: Tensor, dim: int = 0) -> Tensor:
    size = int(index.max()) + 1
    total = x.new_zeros(size, *x.shape[1:]).index_add(0, index, x)
    count = torch.bincount(index, minlength=size).clamp(min=1)
    return total / count.view(-1, *[1] * (x.dim() - 1))


def _add_pool(x: Tensor, batch: Tensor) -> Tensor:
    return x.new_zeros(int(batch.max()) + 1, *x.shape[1:]).index_add(0, batch, x)
