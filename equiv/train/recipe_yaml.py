"""Read YAML the way people expect it: safe, with line numbers, without the traps of YAML 1.1.

`1e-3` is a number, `no` and `on` are words (nobelium is an element), `1:30` is not a number to base
60, and a key that stands twice is an error. Anchors and aliases are refused: a recipe has no use
for them and a hostile file has.
"""

import re
from typing import Any

import yaml
from yaml.composer import ComposerError

from equiv.errors import RecipeError

Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  (PyYAML reads this attribute of the class)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ComposerError(
                None, None, "anchors (&) and aliases (*) are not allowed", event.start_mark
            )
        return super().compose_node(parent, index)


for _tag, _pattern, _first in [
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9](?:_?[0-9])*", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9](?:_?[0-9])*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
]:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


def parse_yaml(text: str, where: str) -> tuple[Any, dict[Location, int]]:
    """The content of a YAML text, and the line (from 1) of every key and list entry.

    Args:
        text: the YAML text.
        where: its name in error messages.

    Raises:
        RecipeError: the text is not YAML, repeats keys, uses anchors or tags, or is nested absurdly
            deep.
    """
    lines: dict[Location, int] = {}
    problems: list[str] = []
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            content = None if node is None else _build(loader, node, (), lines, problems)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        problem = str(error.problem or error.context)
        if "\\t" in problem:
            problem += "; indent with spaces, not with tabs"
        raise RecipeError(f"{where}{line}: not valid YAML: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = (
            "nested too deeply"
            if isinstance(error, RecursionError)
            else str(error).replace("\n", " ")
        )
        raise RecipeError(f"{where}: not valid YAML: {reason}") from None
    if problems:
        raise RecipeError(_several(where, [f"{where} {problem}" for problem in problems]))
    return content, lines


def parse_scalar(text: str) -> Any:
    """The value of one override, read as in a recipe: `1e-3`, `[64, 64]`, `null`, `{H: -13.6}`."""
    return parse_yaml(text, f"value {text!r}")[0]


def _build(
    loader: _Loader, node: yaml.Node, at: Location, lines: dict[Location, int], problems: list[str]
) -> Any:
    if not isinstance(node, yaml.ScalarNode) and node.tag not in (
        "tag:yaml.org,2002:map",
        "tag:yaml.org,2002:seq",
    ):
        problems.append(f"line {node.start_mark.line + 1}: the tag {node.tag!r} is not allowed")
        return None
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(f"line {line}: a key must be a word")
                continue
            key = key_node.value
            if key in mapping:
                problems.append(
                    f"line {line}: {'.'.join(map(str, (*at, key)))} stands twice "
                    f"(first on line {lines[(*at, key)]})"
                )
                continue
            lines[(*at, key)] = line
            mapping[key] = _build(loader, value_node, (*at, key), lines, problems)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            lines[(*at, index)] = child.start_mark.line + 1
        return [
            _build(loader, child, (*at, index), lines, problems)
            for index, child in enumerate(node.value)
        ]
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "float":
        return float(
            node.value.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
        )
    if kind == "int":
        return int(node.value.replace("_", ""))
    if kind == "bool":
        return node.value.lower() == "true"
    if kind == "null":
        return None
    if kind == "str":
        return node.value
    problems.append(f"line {node.start_mark.line + 1}: the tag {node.tag!r} is not allowed")
    return None


def _several(where: str, problems: list[str]) -> str:
    return (
        problems[0]
        if len(problems) == 1
        else f"{where} has {len(problems)} problems:\n  " + "\n  ".join(problems)
    )
