r"""Clebsch-Gordan couplings channel by channel, in blocks that stay in the cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from equiv.partial import partial_gradients


@dataclass(frozen=True)
class Pair:
    """Two input terms and the paths from them: ``(path, output term, 2 l3 + 1)`` each."""

    in1: int
    in2: int
    paths: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Plan:
    """All pairs of terms that meet channel by channel, and how many terms and paths there are."""

    pairs: tuple[Pair, ...]
    terms1: tuple[int, ...]
    terms2: tuple[int, ...]
    outputs: tuple[int, ...]
    weighted: tuple[int, ...]


def plan_of(pairs: Sequence[Pair], weighted: Sequence[int]) -> Plan:
    """The plan of some pairs; ``weighted`` are the paths with weights, in order."""
    return Plan(
        tuple(pairs),
        tuple(sorted({pair.in1 for pair in pairs})),
        tuple(sorted({pair.in2 for pair in pairs})),
        tuple(sorted({out for pair in pairs for _, out, _ in pair.paths})),
        tuple(weighted),
    )


def couple_channelwise(
    plan: Plan,
    couplings: Sequence[Float[Tensor, "paths_k ij"]],
    x: dict[int, Float[Tensor, "rows i channels"]],
    y: dict[int, Float[Tensor, "rows j channels"]],
    weights: dict[int, Float[Tensor, "rows_or_1 channels"]],
) -> dict[int, Float[Tensor, "rows k channels"]]:
    r"""Every output term of the paths that meet channel by channel.

    .. math::
        z^{(o)}_{kc} = \sum_{p \to o} w^{(p)}_c \sum_{ij} C^{(p)}_{k,ij}\, x_{ic}\, y_{jc}

    All products :math:`x_{ic}\, y_{jc}` of a pair of terms meet the coefficients of all paths from
    that pair in one matrix product. Rows are taken in blocks, so that these products, by far the
    largest arrays, never leave the cache, and the backward pass makes them again instead of reading
    them back. Second and higher derivatives, and compilers, use :func:`couple_plainly`.

    Args:
        plan: which terms meet.
        couplings: for each pair :math:`C`, its paths one below the other.
        x: terms of the first input by their number.
        y: of the second.
        weights: of the paths that have some, by their number.
    """
    tensors = [
        *(x[t] for t in plan.terms1),
        *(y[t] for t in plan.terms2),
        *(weights[p] for p in plan.weighted),
    ]
    if (
        torch.compiler.is_compiling()
        or isinstance(tensors[0], FakeTensor)
        or torch._C._are_functorch_transforms_active()
    ):
        return couple_plainly(plan, couplings, x, y, weights)
    out: Any = _Channelwise.apply(plan, couplings, *tensors)
    return dict(zip(plan.outputs, out, strict=True))


def couple_plainly(
    plan: Plan,
    couplings: Sequence[Tensor],
    x: dict[int, Tensor],
    y: dict[int, Tensor],
    weights: dict[int, Tensor],
) -> dict[int, Tensor]:
    """The same in plain operations on all rows at once."""
    x = {term: t.transpose(0, 1).contiguous() for term, t in x.items()}
    y = {term: t.transpose(0, 1).contiguous() for term, t in y.items()}
    out: dict[int, Tensor] = {}
    for pair, coupling in zip(plan.pairs, couplings, strict=True):
        a, b = x[pair.in1], y[pair.in2]
        coupled = coupling @ _outer(a, b)
        for (p, o, _), part in zip(pair.paths, coupled.split(_sizes(pair)), strict=True):
            block = part.unflatten(1, a.shape[1:])
            block = block * weights[p] if p in weights else block
            out[o] = out[o] + block if o in out else block
    return {o: block.transpose(0, 1) for o, block in out.items()}


class _Channelwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, couplings: Any, *tensors: Tensor) -> Any:
        ctx.plan, ctx.couplings = plan, couplings
        ctx.save_for_backward(*tensors)
        x, y, weights = _by_number(plan, tensors)
        rows, channels = tensors[0].shape[0], tensors[0].shape[2]
        dims = {o: dim for pair in plan.pairs for _, o, dim in pair.paths}
        out = {o: tensors[0].new_empty(rows, dims[o], channels) for o in plan.outputs}
        for part in _blocks(couplings, tensors[0]):
            a, b = _components_first(x, part), _components_first(y, part)
            z: dict[int, Tensor] = {}
            for pair, coupling in zip(plan.pairs, couplings, strict=True):
                u, v = a[pair.in1], b[pair.in2]
                coupled = coupling @ _outer(u, v)
                for (p, o, dim), block in zip(pair.paths, coupled.split(_sizes(pair)), strict=True):
                    block = block.view(dim, *u.shape[1:])
                    if p in weights:
                        w = _rows(weights[p], part)
                        z[o] = z[o].addcmul_(block, w) if o in z else block * w
                    else:
                        z[o] = z[o].add_(block) if o in z else block.clone()
            for o, block in z.items():
                out[o][part].copy_(block.transpose(0, 1))
        return tuple(out.values())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        plan, couplings, tensors = ctx.plan, ctx.couplings, ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # a derivative of the derivative will be asked for

            def plainly(*tensors: Tensor) -> list[Tensor]:
                out = couple_plainly(plan, couplings, *_by_number(plan, tensors))
                return [out[o] for o in plan.outputs]

            return None, None, *partial_gradients(plainly, tensors, needed, grads)
        x, y, weights = _by_number(plan, tensors)
        gx, gy, gw = _by_number(
            plan, [torch.zeros_like(t) if t.shape[0] == 1 else torch.empty_like(t) for t in tensors]
        )
        needs_x, needs_y, needs_w = _by_number(plan, needed)
        gz = dict(zip(plan.outputs, grads, strict=True))
        for part in _blocks(couplings, tensors[0]):
            a, b, g = (_components_first(t, part) for t in (x, y, gz))
            ga: dict[int, Tensor] = {}
            gb: dict[int, Tensor] = {}
            for pair, coupling in zip(plan.pairs, couplings, strict=True):
                u, v = a[pair.in1], b[pair.in2]
                if any(needs_w.get(p) for p, _, _ in pair.paths):
                    coupled = (coupling @ _outer(u, v)).split(_sizes(pair))
                    for (p, o, dim), block in zip(pair.paths, coupled, strict=True):
                        if needs_w.get(p):
                            each = block.view(dim, *u.shape[1:]) * g[o]
                            if gw[p].shape[0] == 1:
                                gw[p] += each.sum((0, 1))
                            else:
                                gw[p][part] = each.sum(0)
                if not (needs_x[pair.in1] or needs_y[pair.in2]):
                    continue
                weighted = torch.cat(
                    [
                        g[o] * _rows(weights[p], part) if p in weights else g[o]
                        for p, o, _ in pair.paths
                    ]
                )
                outer = (coupling.T @ weighted.flatten(1)).view(len(u), len(v), *u.shape[1:])
                if needs_x[pair.in1]:
                    _add(ga, pair.in1, (outer * v).sum(1) if len(v) > 1 else outer[:, 0] * v)
                if needs_y[pair.in2]:
                    _add(
                        gb,
                        pair.in2,
                        (outer * u.unsqueeze(1)).sum(0) if len(u) > 1 else outer[0] * u,
                    )
            for term, block in ga.items():
                gx[term][part].copy_(block.transpose(0, 1))
            for term, block in gb.items():
                gy[term][part].copy_(block.transpose(0, 1))
        found = [
            *(gx[t] if needs_x[t] else None for t in plan.terms1),
            *(gy[t] if needs_y[t] else None for t in plan.terms2),
            *(gw[p] if needs_w[p] else None for p in plan.weighted),
        ]
        return None, None, *found


def _by_number(plan: Plan, tensors: Sequence[Any]) -> tuple[dict, dict, dict]:
    n1, n2 = len(plan.terms1), len(plan.terms2)
    return (
        dict(zip(plan.terms1, tensors[:n1], strict=True)),
        dict(zip(plan.terms2, tensors[n1 : n1 + n2], strict=True)),
        dict(zip(plan.weighted, tensors[n1 + n2 :], strict=True)),
    )


def _blocks(couplings: Sequence[Tensor], like: Tensor) -> list[slice]:
    """Slices of rows, for which the largest array has two megabytes in single precision."""
    widest = max(sum(coupling.shape) for coupling in couplings)
    rows = max(1, min(16384, 2**19 // widest) // max(1, like.shape[2]))
    return [slice(start, start + rows) for start in range(0, like.shape[0], rows)]


def _components_first(x: dict[int, Tensor], part: slice) -> dict[int, Tensor]:
    return {term: t[part].transpose(0, 1).contiguous() for term, t in x.items()}


def _outer(
    a: Float[Tensor, "i rows channels"], b: Float[Tensor, "j rows channels"]
) -> Float[Tensor, "ij columns"]:
    return (a.unsqueeze(1) * b.unsqueeze(0)).flatten(2).flatten(0, 1)


def _rows(weight: Float[Tensor, "rows_or_1 channels"], part: slice) -> Tensor:
    return weight if weight.shape[0] == 1 else weight[part]


def _sizes(pair: Pair) -> list[int]:
    return [dim for _, _, dim in pair.paths]


def _add(total: dict[int, Tensor], term: int, block: Tensor) -> None:
    total[term] = total[term].add_(block) if term in total else block
