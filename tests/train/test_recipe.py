import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiv.errors import RecipeError
from equiv.models import MACE
from equiv.train.recipe import Recipe, parse_duration
from equiv.train.recipe_load import all_keys, load_recipe
from equiv.train.recipe_potential import LongRangeRecipe, MACERecipe

MINIMAL = "data:\n  train: a.xyz\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="r.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def complaint(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_every_problem_is_reported_at_once_with_its_line_and_the_nearest_key(write):
    text = (
        "data:\n  train: a.xyz\n  labels: {enrgy: e}\n"
        "train:\n  learing_rate: 1e-3\n  epochs: 0\n  schedule: cosin\nmodle: {}\n"
    )
    message = complaint(write(text))
    assert "r.yaml has 5 problems" in message
    assert (
        "train.learing_rate: unknown key (r.yaml line 5); did you mean train.learning_rate?"
        in message
    )
    assert (
        "train.epochs: expected 'auto' or a number of at least 1, got 0 (r.yaml line 6)" in message
    )
    assert (
        "train.schedule: expected 'cosine', 'exponential', 'plateau' or 'constant', "
        "got 'cosin' (r.yaml line 7)" in message
    )
    assert "modle: unknown key (r.yaml line 8); did you mean model?" in message
    assert (
        "data.labels.enrgy: unknown key (r.yaml line 3); did you mean data.labels.energy?"
        in message
    )


def test_a_key_in_the_wrong_section_is_pointed_home(write):
    assert "did you mean train.learning_rate?" in complaint(write(MINIMAL + "learning_rate: 1.0\n"))
    assert "did you mean model.cutoff?" in complaint(write(MINIMAL + "  cutoff: 5.0\n"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train: {learning_rate: fast}", "train.learning_rate: expected a number, got 'fast'"),
        (
            "train: {learning_rate: -1}",
            "train.learning_rate: expected a number more than 0, got -1",
        ),
        ("train: {learning_rate: true}", "train.learning_rate: expected a number, got true"),
        ("train: {learning_rate: .nan}", "train.learning_rate: expected a finite number, got nan"),
        (
            "train: {max_time: soon}",
            "train.max_time: expected a time such as 90s, 45m or 1h30m, got 'soon'",
        ),
        (
            "train: {batch_edges: 3.5}",
            "train.batch_edges: expected 'auto' or a whole number, got 3.5",
        ),
        (
            "model: {radial_hidden: [64, 0.5]}",
            "model.radial_hidden.1: expected a whole number, got 0.5",
        ),
        ("model: {zbl: yes}", "model.zbl: expected true or false, got 'yes'"),
        ("model: {name: mice}", "got 'mice' (r.yaml line 3); did you mean mace?"),
        (
            "model: {hidden_degree: 3, edge_degree: 2}",
            "hidden_degree (3) must not exceed edge_degree (2)",
        ),
        ("train: {checkpoint_interval: x}", "expected a time such as 90s"),
        ("train: 3", "train: expected a table of key: value, got 3"),
        ("train:", "train: expected a table of key: value, got null"),
        ("card: {licence: 3}", "card.licence: expected a text, got 3"),
        ("train: {learning_rate: 1e-3, final_learning_rate: 1.0}", "must not exceed learning_rate"),
    ],
)
def test_wrong_values_are_explained_in_plain_words(write, line, expected):
    message = complaint(write(MINIMAL + line + "\n"))
    assert expected in message
    assert "r.yaml line 3" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "data:\n  train: a.xyz\n  train: b.xyz\n",
            "r.yaml line 3: data.train stands twice (first on line 2)",
        ),
        ("data: &x\n  train: a.xyz\nmodel: *x\n", "anchors (&) and aliases (*) are not allowed"),
        ("data: !!python/object:os.system {train: a}\n", "the tag"),
        ("data: {train: !!python/name:os.system }\n", "the tag"),
        ("data: [a.xyz\n", "r.yaml line 2: not valid YAML"),
        ("- a.xyz\n", "expected keys such as 'data:' and 'train:'"),
        ("", "data: required, but not given"),
        ("{" * 3000, "nested too deeply"),
        ("data:\n\ttrain: a.xyz\n", "not valid YAML"),
    ],
)
def test_broken_files_are_explained(write, text, expected):
    assert expected in complaint(write(text))


def test_files_that_are_no_recipes_are_refused(tmp_path):
    assert "no such file" in complaint(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in complaint(tmp_path / "b.yaml")
    (tmp_path / "big.yaml").write_text("#" * 1_000_001)
    assert "too many for a recipe" in complaint(tmp_path / "big.yaml")


def test_scalars_mean_what_they_look_like(write):
    recipe = load_recipe(
        write(
            "data: {train: a.xyz, reference_energies: {No: -1, H: -13.6e0}}\n"
            "train: {learning_rate: 1e-3, weight_decay: 5.0E-7, max_time: 1:30:00, "
            "clip_gradient: ~, amsgrad: False}\n"
        )
    )
    assert recipe.data.reference_energies == {"No": -1.0, "H": -13.6}
    assert recipe.train.learning_rate == 1e-3
    assert recipe.train.weight_decay == 5e-7
    assert recipe.train.max_time == 5400
    assert recipe.train.clip_gradient is None
    assert recipe.train.amsgrad is False


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("45m", 2700),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2:03", 123),
        ("1:02:03", 3723),
        ("1 d", 86400),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "5 parsecs", "1:99:00", "5m3", "-3s"])
def test_texts_that_are_no_durations_are_left_for_the_schema_to_refuse(text):
    assert parse_duration(text) == text


def test_overrides_win_and_are_read_like_the_file(write):
    path = write(MINIMAL + "train: {epochs: 7, learning_rate: 0.5}\n")
    recipe = load_recipe(
        path,
        ["train.learning_rate=1e-3", "model.radial_hidden=[32, 32]", "train.clip_gradient=null"],
    )
    assert (recipe.train.epochs, recipe.train.learning_rate, recipe.train.clip_gradient) == (
        7,
        1e-3,
        None,
    )
    assert recipe.model.radial_hidden == [32, 32]


def test_wrong_overrides_are_listed_with_the_other_problems(write):
    message = complaint(
        write(MINIMAL + "train: {epoch: 1}\n"),
        "train.epochs.x=3",
        "foo",
        "train.lr=1",
        "data.train.a=1",
    )
    assert "recipe has 5 problems" in message.replace("r.yaml", "recipe")
    assert "--set foo: expected KEY=VALUE" in message
    assert "data.train holds 'a.xyz', not keys" in message
    assert "train.lr: unknown key" in message
    assert "train.epoch: unknown key (r.yaml line 3); did you mean train.epochs?" in message


def test_paths_in_a_file_start_at_the_file_and_paths_on_the_command_line_where_one_is(
    tmp_path, monkeypatch
):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "r.yaml").write_text(
        "data: {train: a.xyz, valid: [b.xyz], test: {hot: c.xyz}}\noutput: out\n"
    )
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("sub/r.yaml", ["data.valid=d.xyz"])
    assert recipe.paths(recipe.data.train) == [Path("sub/a.xyz")]
    assert recipe.test_sets() == {"hot": [Path("sub/c.xyz")]}
    assert recipe.run_folder == Path("sub/out")
    assert recipe.paths(recipe.data.valid) == [tmp_path / "d.xyz"]
    assert load_recipe("sub/r.yaml", output="here").run_folder == tmp_path / "here"


def test_the_run_is_called_after_its_recipe_or_its_data(tmp_path, write):
    assert load_recipe(write(MINIMAL)).run_folder == Path("runs/r")
    assert load_recipe(write(MINIMAL, "recipe.yaml")).run_folder == Path("runs") / tmp_path.name
    assert load_recipe("some/train.xyz").run_folder == Path("runs/train")
    assert load_recipe({"data": {"train": "some/train.xyz"}}).run_folder == Path("runs/train")


def test_the_shortest_recipe_is_one_line(write):
    assert load_recipe(write("data: a.xyz\n")).data.train == "a.xyz"


def test_a_recipe_survives_being_written_and_read(write):
    recipe = load_recipe(write(MINIMAL + "train: {max_time: 3m, learning_rate: 1e-4}\n"))
    again = load_recipe(write(yaml.safe_dump(recipe.to_dict()), "again.yaml"))
    assert again.to_dict() == recipe.to_dict()


def test_the_defaults_of_the_recipe_are_those_of_the_constructor():
    import inspect

    measured = {"elements", "reference_energies", "mean_neighbors", "scale", "shift"}
    measured |= {"random_until", "fixed_from"}  # a share of the steps
    constructor = inspect.signature(MACE.__init__).parameters
    fields = MACERecipe.model_fields
    beside = {"name", "long_range"}  # chosen before the constructor is called
    # What only models from elsewhere and exported ones have.
    converted = {"residual_first", "frequencies", "selected"}
    given = set(constructor) - {"self", "elements", "reference_energies"} - converted
    assert set(fields) - beside == given
    for name in set(fields) - measured - beside - {"cutoff"}:
        default, expected = (
            fields[name].get_default(call_default_factory=True),
            constructor[name].default,
        )
        assert (tuple(default) if isinstance(default, list) else default) == expected, name


def test_the_choices_of_the_recipe_are_those_that_exist():
    from equiv.message_passing.choice import CONVOLUTIONS
    from equiv.models import MODELS
    from equiv.nn.radial import RADIAL_BASES

    choices = {"product": CONVOLUTIONS, "radial_basis": RADIAL_BASES}
    for field, registry in choices.items():
        assert set(get_args(MACERecipe.model_fields[field].annotation)) == set(registry)
    assert set(get_args(MACERecipe.model_fields["name"].annotation)) <= set(MODELS)


def test_the_long_range_term_of_the_recipe_is_that_of_the_model():
    from dataclasses import fields

    from equiv.models import LongRange

    expected = {field.name: field.default for field in fields(LongRange)}
    assert LongRangeRecipe().model_dump() == expected


def test_checking_a_recipe_imports_neither_torch_nor_ase(write):
    code = (
        "import sys; from equiv.train import load_recipe; load_recipe(sys.argv[1]);"
        "print([m for m in ('torch', 'ase', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(write(MINIMAL))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


KEYS = [key for key in all_keys() if "." in key]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=st.sampled_from(KEYS), position=st.integers(0, 30), letter=st.sampled_from("abcxyz_"))
def test_a_typo_in_any_key_suggests_that_key(key, position, letter):
    section, _, word = key.rpartition(".")
    position %= len(word)
    typo = word[:position] + letter + word[position + 1 :]
    tree = {"data": {"train": "a.xyz"}}
    target = tree
    for part in section.split("."):
        target = target.setdefault(part, {})
    siblings = [name for name in KEYS if name.rpartition(".")[0] == section]
    if f"{section}.{typo}" in siblings or len(word) < 4:
        return
    target[typo] = 1
    with pytest.raises(RecipeError, match="unknown key") as caught:
        load_recipe(tree)
    suggested = str(caught.value).split("did you mean ")[-1].split("?")[0]
    assert suggested in all_keys()
    if len(word) > 6:  # in short words one letter may lead to a neighbour
        assert suggested == key


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(values=st.dictionaries(st.sampled_from(all_keys()), TREES, max_size=4))
def test_whatever_stands_in_a_recipe_it_is_read_or_refused_but_never_crashes(values):
    tree = {"data": {"train": "a.xyz"}}
    for key, value in values.items():
        target = tree
        *sections, word = key.split(".")
        for section in sections:
            if not isinstance(target.get(section), dict):
                target[section] = {}
            target = target[section]
        target[word] = value
    try:
        recipe = load_recipe(tree)
    except RecipeError:
        return
    assert isinstance(recipe, Recipe)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(alphabet=st.sampled_from("dat:rin \n-[]{}&*!'\"#|>%@`0.e~,?\t"), max_size=60))
def test_whatever_text_is_given_it_is_read_or_refused_but_never_crashes(write, text):
    path = write(text)
    with suppress(RecipeError):
        load_recipe(path)


@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_test_set_cannot_take_the_place_of_the_training_set(write, name):
    message = complaint(write(f"data: {{train: a.xyz, test: {{{name}: b.xyz}}}}\n"))
    assert f"a test set may not be called {name}" in message
    assert "data.test" in message
    assert "line 1" in message


def test_an_empty_recipe_is_named(write):
    assert "data: required, but not given in r.yaml" in complaint(write("# nothing yet\n"))


def test_an_empty_file_name_is_not_the_current_folder(write):
    assert "a text that is not empty" in complaint(write("data: {train: ''}\n"))
    assert "a text that is not empty" in complaint("")


def test_tabs_are_told_to_be_spaces(write):
    assert "indent with spaces" in complaint(write("data:\n\ttrain: a.xyz\n"))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("train.xyz", "train"),
        ("train.xyz.gz", "train"),
        ("md_*.xyz", "md"),
        ("*.xyz", "run"),
        ("a/[0-9]*.traj", "0-9"),
    ],
)
def test_the_folder_of_a_run_never_holds_wildcards(data, name):
    assert load_recipe(data).run_folder == Path("runs") / name


def test_an_absurd_number_of_threads_is_refused(write):
    assert "train.threads" in complaint(write(MINIMAL + "train: {threads: 100000}\n"))
