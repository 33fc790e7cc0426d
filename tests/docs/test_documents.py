"""What the documents say is what the project does."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from equiv.cli.main import VERBS
from equiv.models import build_model
from equiv.models.file import save_model
from equiv.train.recipe_load import load_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("data/*/README.md"),
]
RECIPES = sorted(ROOT.glob("models/*/recipe.yaml"))

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_the_readme_has_two_commands_each_on_one_line():
    commands = blocks(README, "bash")
    assert [command.count("\n") for command in commands] == [1, 1]
    main_job, tests = commands
    assert "equiv train models/ethanol/recipe.yaml" in main_job
    assert tests.rstrip().endswith("pytest")
    for command in commands:
        assert "-c constraints.txt" in command


def test_the_readme_fits_a_screen():
    assert len(README.splitlines()) <= 80


def test_ci_runs_the_very_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (extraction,) = re.findall(r"command=\$\((sed .*)\)$", script, re.M)
    found = subprocess.run(
        ["bash", "-c", extraction], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == blocks(README, "bash")[1].strip()
    for linter in ("ruff check", "ruff format", "pyright"):
        assert linter in script


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    (source,) = blocks(README, "python")
    model = build_model(
        "mace",
        seed=1,
        dtype=None,
        elements=["H", "C", "O"],
        cutoff=3.0,
        channels=4,
        mean_neighbors=8.0,
        reference_energies=dict.fromkeys("HCO", 0.0),
    )
    (tmp_path / "runs" / "ethanol").mkdir(parents=True)
    (tmp_path / "data").symlink_to(ROOT / "data")
    save_model(model, tmp_path / "runs" / "ethanol" / "model.safetensors")
    short = source.replace(".run(1000)", ".run(2)")
    assert short != source
    done = subprocess.run(
        [sys.executable, "-c", short],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert " eV\n" in done.stdout


@page
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@page
def test_verbs_and_recipe_files_that_pages_name_exist(path):
    text = path.read_text(encoding="utf-8")
    for verb in re.findall(r"`equiv ([a-z]+)[ `]", text):
        assert verb in VERBS, verb
    for recipe in re.findall(r"models/\w+/recipe\.yaml", text):
        assert (ROOT / recipe).exists(), recipe


@page
def test_yaml_in_pages_is_valid_recipe(path):
    for block in blocks(path.read_text(encoding="utf-8"), "yaml"):
        recipe = yaml.safe_load(block)
        recipe.setdefault("data", {}).setdefault("train", "train.xyz")
        load_recipe(recipe)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_every_recipe_of_a_model_is_valid(path):
    assert load_recipe(path).output == f"../../runs/{path.parent.name}"


def test_the_recipe_reference_is_up_to_date():
    location = ROOT / "docs" / "make_recipe_reference.py"
    specification = importlib.util.spec_from_file_location("make_recipe_reference", location)
    assert specification is not None
    assert specification.loader is not None
    maker = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(maker)
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page(), (
        "run python docs/make_recipe_reference.py"
    )


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert requirements[0].name == "torch"
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_constraints_pin_every_direct_dependency_within_the_declared_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = project["dependencies"] + extras["dev"] + extras["notebooks"]
    pinned = pins()
    for text in declared:
        requirement = Requirement(text)
        if requirement.name == "equiv":
            continue
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), text


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    import equiv

    assert equiv.__version__ == version == citation["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", [".ci/run", "constraints.txt", "pyproject.toml", "README.md", "docs/install.md"]
)
def test_no_file_chooses_where_packages_come_from(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"index-url|find-links|trusted-host|--index", text)
