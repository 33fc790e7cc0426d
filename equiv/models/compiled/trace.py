"""Record a function of a model and a batch as one graph that holds for all sizes."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from equiv.models.compiled.conditions import Condition
from equiv.models.compiled.records import Leaf, leaves, rebuild

# What is recorded: takes the model, its trainable weights by name and the inputs, gives tensors.
Function = Callable[[Any, dict[str, Tensor], Any], Mapping[str, Tensor | None]]


class NotGeneral(Exception):
    """The graph would hold for some sizes only."""


@dataclass(frozen=True)
class Graph:
    """One graph for all sizes.

    Attributes:
        module: the graph, a function of weights and inputs; it knows no autograd.
        arguments: stand-ins for weights and inputs, with symbols for the free sizes.
        outputs: names of what the graph returns; whatever else the function names is None.
    """

    module: Any
    arguments: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    _shapes: Any
    _symbols: tuple[Any, ...]

    def conditions(self) -> list[Condition]:
        """What the free sizes of the inputs, in a row, must fulfil.

        A compiler may add to them.

        Raises:
            NotGeneral: they are more than relations between sizes.
        """
        import sympy

        position = {symbol: i for i, symbol in enumerate(self._symbols)}
        found = {}
        for guard in self._shapes.guards:
            relation: Any = guard.expr
            if relation == sympy.true:
                continue
            if isinstance(relation, (sympy.Eq, sympy.Ge, sympy.Le, sympy.Gt, sympy.Lt)):
                sign = -1 if isinstance(relation, (sympy.Le, sympy.Lt)) else 1
                strict = isinstance(relation, (sympy.Gt, sympy.Lt))
                left, right = cast(Any, relation.lhs), cast(Any, relation.rhs)
                polynomial = sign * (left - right) - int(strict)
                condition = _condition(isinstance(relation, sympy.Eq), polynomial, position)
                found[condition] = None
            else:
                raise NotGeneral(f"the graph holds only for {relation}")
        for symbol, i in position.items():
            least = self._shapes.var_to_range[symbol].lower
            found[Condition(False, ((1, (i,)), (-int(least), ())))] = None
        return list(found)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Everything of a model that is an input of its graph: parameters and buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def trace(function: Function, model: nn.Module, inputs: Any) -> Graph:
    """Record what ``function`` does, derivatives and all, without computing it.

    Every free size becomes a symbol. Where the function needs sizes to be related, that becomes a
    condition; where it would have to know a size, there is no such graph.

    Args:
        function: what to record. It must not look at values.
        model: the model; its weights become inputs of the graph.
        inputs: an example (:mod:`equiv.models.compiled.records`) with no free size below 2.

    Raises:
        NotGeneral: there is no such graph.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = ShapeEnv(duck_shape=False)
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    tensors = weights(model)
    arguments: list[Any] = [
        mode.from_tensor(x.detach(), static_shapes=True) for x in tensors.values()
    ]
    symbols: list[Any] = []
    for leaf in leaves(inputs):
        arguments.append(_stand_in(mode, leaf))
        symbols += [arguments[-1].shape[axis].node.expr for axis in leaf.free]
    learned = [name for name, x in model.named_parameters() if x.requires_grad]
    outputs: list[str] = []

    def flat(*values: Tensor) -> list[Tensor]:
        own = dict(zip(tensors, values, strict=False))
        own = {k: x.detach().requires_grad_(k in learned) for k, x in own.items()}
        result = functional_call(
            _Host(model, function),
            {f"model.{k}": x for k, x in own.items()},
            ({k: own[k] for k in learned}, rebuild(inputs, iter(values[len(tensors) :]))),
        )
        outputs[:] = [name for name, x in result.items() if x is not None]
        return [x.detach() for x in result.values() if x is not None]

    with mode, torch.enable_grad(), quiet():
        module = make_fx(flat, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*arguments)
    module.graph.eliminate_dead_code()
    module.recompile()
    graph = Graph(module, tuple(arguments), tuple(outputs), shapes, tuple(symbols))
    graph.conditions()  # whether there are others than relations between sizes
    return graph


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the compiler about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Host(nn.Module):
    """Lets a function use a model whose weights are replaced for the length of one call."""

    def __init__(self, model: nn.Module, function: Function) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, learned: dict[str, Tensor], inputs: Any) -> Mapping[str, Tensor | None]:
        return self.function(self.model, learned, inputs)


def _stand_in(mode: Any, leaf: Leaf) -> Any:
    """A tensor without content whose free sizes are symbols."""
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    shape = leaf.tensor.shape
    if any(shape[axis] < 2 for axis in leaf.free):
        raise NotGeneral(f"{leaf.name} has the shape {tuple(shape)}")
    kinds = [DimDynamic.DYNAMIC if i in leaf.free else DimDynamic.STATIC for i in range(len(shape))]
    context = StatelessSymbolicContext(dynamic_sizes=kinds)
    return mode.from_tensor(
        leaf.tensor.detach().contiguous(),
        symbolic_context=context,
        source=ConstantSource(leaf.name),
    )


def _condition(equal: bool, polynomial: Any, position: dict[Any, int]) -> Condition:
    """The same as a record of numbers."""
    import sympy

    polynomial = polynomial.replace(lambda part: type(part).__name__ == "Mod", _remainder)
    variables = sorted(polynomial.free_symbols, key=str)
    try:
        terms = sympy.Poly(polynomial, *variables).terms() if variables else []
    except sympy.PolynomialError as error:
        raise NotGeneral(f"the graph holds only if {polynomial} is right") from error
    return Condition(
        equal,
        tuple(
            (
                int(coefficient),
                tuple(
                    position[v] for v, n in zip(variables, powers, strict=True) for _ in range(n)
                ),
            )
            for powers, coefficient in terms
        ),
    )


def _remainder(modulo: Any) -> Any:
    """Zero if the division leaves nothing whatever the sizes are, else what it was."""
    import sympy

    number, divisor = modulo.args
    quotient = sympy.cancel(number / divisor)
    return sympy.Integer(0) if quotient.is_polynomial() and quotient.is_integer else modulo
