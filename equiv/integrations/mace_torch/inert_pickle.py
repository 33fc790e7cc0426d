"""A pickle read as data: its opcodes are interpreted here, and none of them can run anything.

A pickle is a program for a small stack machine, and Python's own reader lets that program import
any function and call it. This one has no import: a global stays a pair of names, an instance is a
record of its class, arguments and state, and a call is carried out only for the few functions that
build containers, listed in `CALLS`. What the file asks beyond that is an error that names it.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from equiv.errors import ModelFileError


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names; nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Instance:
    """An object of a pickle: what class it says it has, how it was made and what it holds."""

    kind: Global
    arguments: tuple[Any, ...]
    state: Any = None

    @property
    def attributes(self) -> dict[str, Any]:
        """The instance's dictionary; empty if it has none."""
        return self.state if isinstance(self.state, dict) else {}


Call = Callable[..., Any]
"""Turns the arguments of a call in the pickle into data."""

MARK = object()
PLAIN_KEYS = (str, int, float, bool, bytes, Global, Instance, type(None))
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,  # of no interest here beyond its contents
}
LITERALS = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),
    )
)
PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class InertReader:
    """The stack machine.

    Args:
        calls: functions a pickle may call, and what they build here.
        admits: whether a class or function may be named; calling it makes an :class:`Instance`.
        persistent: turns a persistent id (torch's storages) into data.
    """

    def __init__(
        self,
        calls: Mapping[Global, Call],
        admits: Callable[[Global], bool],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.calls, self.admits, self.persistent = calls, admits, persistent

    def read(self, data: bytes) -> Any:
        """The object a pickle describes.

        Raises:
            ModelFileError: the pickle asks for a class or function that is not admitted, is damaged
                or uses an opcode that data needs not.
        """
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except ModelFileError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelFileError(f"the pickle in it is damaged ({reason})") from error
        raise ModelFileError("the pickle in it ends too early; the file is damaged")

    def _step(self, name: str, argument: Any) -> None:
        if name in PUTS:
            self.memo[int(argument)] = self.stack[-1]
        elif name in GETS:
            self.stack.append(self.memo[int(argument)])
        elif name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in TUPLES:
            self._fold(TUPLES[name])
        elif name in self._STEPS:
            self._STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ModelFileError(
                f"the pickle in it uses {name}, which no model needs; it is refused"
            )

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("mark without contents")
        return value

    def _fold(self, count: int) -> None:
        items = [self._pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def _to_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def _mark(self, _: Any) -> None:
        self.stack.append(MARK)

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _discard(self, _: Any) -> None:
        self.stack.pop()

    def _global(self, argument: str) -> None:
        module, name = argument.split(" ", 1)
        self._name(Global(PYTHON_2.get(module, module), name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a global without a name")
        self._name(Global(module, name))

    def _name(self, named: Global) -> None:
        if named not in self.calls and not self.admits(named):
            raise ModelFileError(
                f"the pickle in it names {str(named)[:100]}, which no mace-torch model needs; "
                "it is refused, and nothing of it was run"
            )
        self.stack.append(named)

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._to_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._to_mark())

    def _dict(self, _: Any) -> None:
        items = self._to_mark()
        self.stack.append({})
        self._set(items)

    def _append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("items for something that is no list")
        target.extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _set_items(self, _: Any) -> None:
        self._set(self._to_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("entries for something that is no dictionary")
        # Hashing a tuple of shared tuples can take longer than the age of the universe.
        if not all(isinstance(key, PLAIN_KEYS) for key in items[::2]):
            raise ModelFileError("the pickle in it has a dictionary with keys that are not plain")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _persistent(self, _: Any) -> None:
        self.stack.append(self.persistent(self._pop()))

    def _make(self, _: Any) -> None:
        arguments, kind = self._pop(), self._pop()
        self.stack.append(self._instance(kind, arguments))

    def _make_with_keywords(self, _: Any) -> None:
        keywords, arguments, kind = self._pop(), self._pop(), self._pop()
        made = self._instance(kind, arguments)
        made.state = dict(keywords) or None
        self.stack.append(made)

    def _call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if isinstance(function, Global) and function in self.calls:
            if not isinstance(arguments, tuple):
                raise ValueError("a call without arguments")
            self.stack.append(self.calls[function](*arguments))
        else:
            self.stack.append(self._instance(function, arguments))

    def _instance(self, kind: Any, arguments: Any) -> Instance:
        if not isinstance(kind, Global):
            raise ModelFileError("the pickle in it calls something that is no class; it is refused")
        if not isinstance(arguments, tuple):
            raise ValueError("a class without arguments")
        return Instance(kind, arguments)

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self.stack[-1]
        if isinstance(target, Instance):
            target.state = state
        elif not isinstance(target, dict):  # what an OrderedDict carries beside its entries
            raise ValueError("a state for something that has none")

    _STEPS: Mapping[str, Callable[..., None]] = {
        "MARK": _mark,
        "MEMOIZE": _memoize,
        "POP": _discard,
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "TUPLE": _tuple,
        "LIST": _list,
        "DICT": _dict,
        "APPEND": _append,
        "APPENDS": _appends,
        "ADDITEMS": _appends,
        "SETITEM": _set_item,
        "SETITEMS": _set_items,
        "BINPERSID": _persistent,
        "NEWOBJ": _make,
        "NEWOBJ_EX": _make_with_keywords,
        "REDUCE": _call,
        "BUILD": _build,
    }
