"""Write docs/recipe.md from the recipe schemas, so that the page and the program cannot disagree.

python docs/make_recipe_reference.py
"""

from pathlib import Path
from typing import Any

from equiv.train.recipe import Recipe
from equiv.train.recipes import DEFAULT, RECIPES

PAGE = Path(__file__).parent / "recipe.md"

INTRODUCTION = """\
# Recipe reference

<!-- Written by docs/make_recipe_reference.py from equiv/train/recipe*.py: edit those, not this. -->

A recipe is a YAML file that says everything about a training run. Only `data.train` has no default:

```yaml
data:
  train: train.xyz
```

is a complete recipe, and `equiv train train.xyz` is the same without a file. `model.name` says
what is trained, and with it which keys there are; without it a `mace` potential is. Any key can
be changed for one run with `--set`, for example `--set train.learning_rate=1e-3`; `equiv train
RECIPE --check` prints the recipe with all defaults and stops. A key that does not exist is an
error that names the nearest one, and all errors are reported at once. Paths are relative to the
folder of the recipe.

What is `auto` is chosen when the data have been read, printed, and written into the `recipe.yaml`
of the run's folder, together with every default.
"""


def described(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return in words what values a key takes."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[1]]
    if "expects" in schema:
        return schema["expects"]
    if "anyOf" in schema:
        choices = [described(choice, definitions) for choice in schema["anyOf"]]
        return " or ".join(dict.fromkeys(choices))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list ({described(schema['items'], definitions)})"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"table (name: {described(values, definitions)})" if values else "table"
    words = {
        "string": "text",
        "boolean": "true or false",
        "integer": "whole number",
        "null": "null",
    }
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {plain(schema[key])}" for key, sign in limits.items() if key in schema]
    return " ".join([words.get(kind, kind), ", ".join(bounds)]).strip()


def plain(number: float) -> str:
    """Return a bound without an exponent where it is whole."""
    return str(int(number)) if number == int(number) else f"{number:g}"


def default_of(schema: dict[str, Any]) -> str:
    """Return the default as YAML spells it."""
    if "default" not in schema:
        return "empty"
    value = schema["default"]
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value is None:
        return "`null`"
    return f"`{value}`"


def table(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the keys of one section, sections inside it left out."""
    lines = ["| key | default | takes | meaning |", "|---|---|---|---|"]
    for key, entry in schema["properties"].items():
        if "properties" in referred(entry, definitions) and "anyOf" not in entry:
            continue
        needed = key in schema.get("required", [])
        default = "required" if needed else default_of(entry)
        meaning = entry.get("description", "").replace("|", "\\|")
        takes = described(entry, definitions).replace("|", "\\|")
        lines.append(f"| `{key}` | {default} | {takes} | {meaning} |")
    return "\n".join(lines)


def referred(entry: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the section that a key holds, also where it may be null; empty if it holds none."""
    references = [choice.get("$ref", "/") for choice in (entry, *entry.get("anyOf", []))]
    named = [definitions.get(reference.rsplit("/", 1)[1], {}) for reference in references]
    return next((section for section in named if "properties" in section), {})


def sections(
    schema: dict[str, Any], definitions: dict[str, Any], path: str = ""
) -> list[tuple[str, dict[str, Any]]]:
    """Return every section of the schema with its dotted name, depth first."""
    found = []
    for key, entry in schema["properties"].items():
        inner = referred(entry, definitions)
        if "properties" in inner:
            name = f"{path}{key}"
            found += [(name, inner), *sections(inner, definitions, f"{name}.")]
    return found


def of_recipe(name: str, recipe: type[Recipe], written: dict[str, str]) -> list[str]:
    """Return what one kind of recipe holds; sections in `written` are referred to, others added."""
    schema = recipe.model_json_schema()
    definitions = schema["$defs"]
    summary = " ".join((recipe.__doc__ or "").split("\n\n")[0].split())
    parts = [f"# `model.name: {name}`\n\n{summary}\n"]
    shared: dict[str, list[str]] = {}
    for path, section in sections(schema, definitions):
        title = section["title"]
        if title in written:
            shared.setdefault(written[title], []).append(f"`{path}`")
            continue
        written[title] = name
        summary = section.get("description", "").split("\n\n")[0]
        summary = " ".join(summary.split())
        parts.append(f"## `{path}`\n\n{summary}\n\n{table(section, definitions)}\n")
    for other, paths in shared.items():
        verb = "is as" if len(paths) == 1 else "are as"
        parts.append(f"{', '.join(paths)} {verb} for `{other}`.\n")
    return parts


def page() -> str:
    """Return the whole page."""
    parts, written = [INTRODUCTION], {}
    for name, recipe in RECIPES.items():
        parts += of_recipe(name, recipe, written)
    schema = RECIPES[DEFAULT].model_json_schema()
    parts.append(f"# At the top\n\n{table(schema, schema['$defs'])}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
