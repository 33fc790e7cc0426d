"""From a YAML file, a dictionary or a data file to a checked recipe, or to all its complaints."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from equiv.errors import EquivError, RecipeError
from equiv.train.recipe import Recipe
from equiv.train.recipe_yaml import Location, parse_scalar, parse_yaml
from equiv.train.recipes import DEFAULT, RECIPES

LARGEST_RECIPE = 1_000_000  # bytes; a larger "recipe" is a data file by mistake

COMPRESSED = (".gz", ".bz2", ".xz")

_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table of key: value",
    "model_type": "a table of key: value",
    "none_required": "null",
    "finite_number": "a finite number",
    "int_from_float": "a whole number",
    "string_too_short": "a text that is not empty",
}


def load_recipe(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
) -> Recipe:
    """A checked recipe from a YAML file, a dictionary, or a file of structures.

    Relative paths written in a recipe file start at the folder of that file; relative paths in a
    dictionary, in `overrides` and in `output` start at the working directory.

    Args:
        source: a `.yaml`/`.yml` file, a dictionary with the same keys, or any file of structures.
        overrides: texts such as `train.learning_rate=1e-3`; the value is read as YAML. They win
            over the file.
        output: folder of the run; wins over both.

    Raises:
        RecipeError: unknown keys, wrong values or an unreadable file; all problems are listed, each
            with its line.
    """
    folder, stem, where = Path(), "run", "recipe"
    lines: dict[Location, int] = {}
    if isinstance(source, Mapping):
        content: Any = _plain(source)
        stem = _stem_of(content)
    elif Path(source).suffix.lower() in (".yaml", ".yml"):
        path = Path(source)
        where, folder = path.name, path.parent
        stem = path.stem if path.stem != "recipe" else path.resolve().parent.name
        content, lines = parse_yaml(_text(path), where)
        content = {} if content is None else content
        if not isinstance(content, dict):
            raise RecipeError(
                f"{where}: expected keys such as 'data:' and 'train:', got {_kind(content)}"
            )
    else:
        path = Path(source)
        content, stem = {"data": {"train": str(source)}}, _stem_of_file(path)
    if isinstance(content.get("data"), str | list):  # the shortest recipe: `data: train.xyz`
        content["data"] = {"train": content["data"]}
    problems = [
        problem
        for override in overrides
        if (problem := _override(content, override, folder, lines)) is not None
    ]
    if output is not None:
        content["output"] = str(Path(output).absolute())
    if (start := _start_of(content, folder)) is not None:
        from equiv.train.start import adopt, header_of  # reads a model file, so torch is imported

        try:
            adopt(content, header_of(start))
        except EquivError as error:
            raise _error(where, [*problems, str(error)]) from None
    name, problem = _model_name(content, lines, where)
    problems += [problem] if problem else []
    schema = RECIPES[name]
    try:
        recipe = schema.model_validate(content)
    except ValidationError as error:
        problems += explain(error, content, lines, where, schema)
        raise _error(where, problems) from None
    if problems:
        raise _error(where, problems)
    return recipe.placed(folder, stem)


def _start_of(content: dict[str, Any], folder: Path) -> Path | None:
    """The model file to start from, seen from the working directory."""
    train = content.get("train")
    start = train.get("start_from") if isinstance(train, dict) else None
    return folder / Path(start).expanduser() if isinstance(start, str) and start else None


def _model_name(
    content: dict[str, Any], lines: Mapping[Location, int], where: str
) -> tuple[str, str | None]:
    """The model whose recipe is meant, and what is wrong with its name.

    With a wrong name the nearest one is put in its place, so that the other keys can be checked.
    """
    section = content.get("model")
    if not isinstance(section, dict) or "name" not in section:
        return DEFAULT, None
    name, place = section["name"], ("model", "name")
    if isinstance(name, str) and name in RECIPES:
        return name, None
    line = f" ({where} line {lines[place]})" if place in lines else ""
    near = difflib.get_close_matches(str(name), RECIPES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    known = ", ".join(map(repr, RECIPES))
    content["model"] = {**section, "name": (near or [DEFAULT])[0]}
    return content["model"]["name"], f"model.name: expected {known}, got {_kind(name)}{line}{hint}"


def explain(
    error: ValidationError,
    content: Any,
    lines: Mapping[Location, int],
    where: str,
    schema: type[Recipe],
) -> list[str]:
    """One sentence per wrong key: its name and line, what was expected, what came."""
    groups: dict[Location, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        groups.setdefault(_field_of(item["loc"], schema), []).append(item)
    places = sorted(groups, key=lambda place: lines.get(place, lines.get(place[:-1], 0)))
    return [_sentence(place, groups[place], content, lines, where, schema) for place in places]


def _sentence(
    place: Location,
    items: list[ErrorDetails],
    content: Any,
    lines: Mapping[Location, int],
    where: str,
    schema: type[Recipe],
) -> str:
    # In a union every branch complains; the branch that got furthest into the value is the one that
    # was meant.
    depths = [_depth(item["loc"], content) for item in items]
    items = [
        item
        for item, depth in zip(items, depths, strict=True)
        if len(depth) == max(map(len, depths))
    ]
    reached = max(depths, key=len)
    name = ".".join(map(str, reached if len(reached) > len(place) else place))
    line = next(
        (
            f" ({where} line {lines[reached[:n]]})"
            for n in range(len(reached), 0, -1)
            if reached[:n] in lines
        ),
        "",
    )
    kinds = {item["type"] for item in items}
    if "extra_forbidden" in kinds:
        return f"{name}: unknown key{line}; {_suggestion(place, schema)}"
    if "missing" in kinds:
        line = line or (f" in {where}" if where != "recipe" else "")
        return f"{name}: required, but not given{line}{_description(place, schema)}"
    if kinds == {"value_error"}:
        return f"{name}: {items[0]['ctx']['error']!s}{line}"  # pyright: ignore[reportTypedDictNotRequiredAccess]
    expected = _expected_of(place, schema) or " or ".join(
        dict.fromkeys(_expectation(item) for item in items)
    )
    came = _kind(items[0]["input"])
    return f"{name}: expected {expected}, got {came}{line}{_description(place, schema)}"


def _expectation(item: ErrorDetails) -> str:
    context = item.get("ctx", {})
    kind = item["type"]
    if kind in _TYPES:
        return _TYPES[kind]
    if kind == "literal_error":
        return str(context["expected"])
    bounds = {
        "greater_than": "more than",
        "greater_than_equal": "at least",
        "less_than": "less than",
        "less_than_equal": "at most",
    }
    if kind in bounds:
        limit = next(context[key] for key in ("gt", "ge", "lt", "le") if key in context)
        return (
            f"a number of {bounds[kind]} {limit:g}"
            if kind.endswith("equal")
            else f"a number {bounds[kind]} {limit:g}"
        )
    return item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def _section(place: Location, schema: type[Recipe]) -> type[BaseModel] | None:
    """The part of the schema that owns the key at `place`."""
    model: type[BaseModel] = schema
    for key in place[:-1]:
        field = model.model_fields.get(str(key))
        inner = None if field is None else field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    return model


def _field_of(location: Location, schema: type[Recipe]) -> Location:
    """The key of the schema that an error is about; further parts of its location are details."""
    model: type[BaseModel] = schema
    for depth, key in enumerate(location):
        field = model.model_fields.get(str(key))
        if field is None:
            return location[: depth + 1]
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return location[: depth + 1]
        model = field.annotation
    return location


def _depth(location: Location, content: Any) -> Location:
    """The keys of `location` that are in the recipe; the names of union branches fall out."""
    reached: list[str | int] = []
    for key in location:
        if (isinstance(content, dict) and key in content) or (
            isinstance(content, list) and isinstance(key, int) and key < len(content)
        ):
            content = content[key]  # pyright: ignore[reportCallIssue, reportArgumentType]
            reached.append(key)
    return tuple(reached)


def _description(place: Location, schema: type[Recipe]) -> str:
    section = _section(place, schema)
    field = None if section is None else section.model_fields.get(str(place[-1]))
    return f" - {field.description}" if field is not None and field.description else ""


def _expected_of(place: Location, schema: type[Recipe]) -> str | None:
    section = _section(place, schema)
    field = None if section is None else section.model_fields.get(str(place[-1]))
    if field is None:
        return None
    extras = [
        field.json_schema_extra,
        *(getattr(item, "json_schema_extra", None) for item in field.metadata),
    ]
    for annotation in get_args(field.annotation):
        extras += [
            getattr(item, "json_schema_extra", None)
            for item in getattr(annotation, "__metadata__", ())
        ]
    return next(
        (
            str(extra["expects"])
            for extra in extras
            if isinstance(extra, dict) and "expects" in extra
        ),
        None,
    )


def all_keys(model: type[BaseModel] = RECIPES[DEFAULT], prefix: str = "") -> list[str]:
    """Every key of a recipe with its sections: `data.train`, `train.learning_rate`, ..."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += [f"{prefix}{name}", *all_keys(inner, f"{prefix}{name}.")]
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _suggestion(place: Location, schema: type[Recipe]) -> str:
    """The nearest valid key: first within the section, then the same or a similar word anywhere."""
    section, word = _section(place, schema), str(place[-1])
    prefix = ".".join(map(str, place[:-1]))
    if section is not None:
        siblings = list(section.model_fields)
        if near := difflib.get_close_matches(word, siblings, n=1, cutoff=0.6):
            return f"did you mean {prefix + '.' if prefix else ''}{near[0]}?"
    tails = {key.rsplit(".", 1)[-1]: key for key in all_keys(schema)}
    if near := difflib.get_close_matches(word, list(tails), n=1, cutoff=0.6):
        return f"did you mean {tails[near[0]]}?"
    if section is None:
        return f"{prefix} takes no keys"
    nearest = difflib.get_close_matches(word, list(section.model_fields), n=1, cutoff=0.0)
    return f"the nearest valid key is {nearest[0]}; valid here: {', '.join(section.model_fields)}"


def _override(
    content: dict[str, Any], override: str, folder: Path, lines: dict[Location, int]
) -> str | None:
    """Put one `key=value` into the recipe; a sentence when it cannot be."""
    key, equals, text = override.partition("=")
    words = key.strip().split(".")
    if not equals or not all(words):
        return f"--set {override}: expected KEY=VALUE, for example train.learning_rate=1e-3"
    try:
        value = parse_scalar(text)
    except RecipeError as error:
        return f"--set {override}: {error}"
    if key.strip() in Recipe.PATHS:
        value = _from_here(value, folder)
    target = content
    for depth, word in enumerate(words[:-1]):
        inner = target.get(word)
        if inner is None:
            inner = target[word] = {}
        if not isinstance(inner, dict):
            return (
                f"--set {override}: {'.'.join(words[: depth + 1])} holds {_kind(inner)}, not keys"
            )
        target = inner
    target[words[-1]] = value
    for place in [place for place in lines if place[: len(words)] == tuple(words)]:
        del lines[place]  # what the file says there no longer counts
    return None


def _from_here(value: Any, folder: Path) -> Any:
    """Paths typed in a shell start at the working directory, not at the folder of the recipe."""
    if isinstance(value, str):
        return value if folder == Path() else str(Path(value).expanduser().absolute())
    if isinstance(value, list):
        return [_from_here(item, folder) for item in value]
    if isinstance(value, dict):
        return {name: _from_here(item, folder) for name, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    """A value from Python code the way YAML would have brought it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, BaseModel):
        return value.model_dump()
    return str(value) if isinstance(value, Path) else value


def _stem_of(content: Mapping[str, Any]) -> str:
    data = content.get("data")
    train = data.get("train") if isinstance(data, Mapping) else None
    first = train[0] if isinstance(train, list) and train else train
    return _stem_of_file(Path(first)) if isinstance(first, str) else "run"


def _stem_of_file(path: Path) -> str:
    """The name of a data file as the name of a run: `train` of `train.xyz.gz`, `md` of `md_*.xyz`.

    A folder called `runs/*` would be a trap for the next `rm`.
    """
    stem = path.name.split(".")[0] if path.suffix in COMPRESSED else path.stem
    return re.sub(r"[*?\[\]]+", "", stem).strip("-_. ") or "run"


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_RECIPE:
            raise RecipeError(
                f"{path}: {path.stat().st_size} bytes are too many for a recipe; "
                "is this a data file?"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as text: {error}") from None


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table" if value else "an empty table"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _error(where: str, problems: list[str]) -> RecipeError:
    text = (
        problems[0]
        if len(problems) == 1
        else f"{where} has {len(problems)} problems:\n  " + "\n  ".join(problems)
    )
    return RecipeError(text)
