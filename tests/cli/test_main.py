"""The dispatcher: fast, and clear about everything that goes wrong."""

import errno
import os
import subprocess
import sys
import time
import types

import pytest

import equiv as package
from equiv.cli.main import DEFECT, VERBS, main
from equiv.errors import EquivError


def python(code, **options):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **options
    )


def test_help_is_there_at_once_and_names_every_verb():
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        result = python("from equiv.cli.main import main; main(['--help'])")
        best = min(best, time.perf_counter() - start)
    assert result.returncode == 0
    for verb, (_, line) in VERBS.items():
        assert f"{verb} " in result.stdout
        assert line in result.stdout
    assert best < 0.5


def test_no_help_imports_torch_or_ase():
    code = (
        "import sys\n"
        "from equiv.cli.main import main\n"
        f"for verb in {list(VERBS)}:\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit as exit: assert exit.code == 0\n"
        "heavy = {'torch', 'ase', 'numpy', 'rich', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("verb", list(VERBS))
def test_the_help_of_a_verb_has_an_example_that_begins_like_a_command(equiv, verb):
    code, output, _ = equiv(verb, "--help")
    assert code == 0
    assert f"\n  equiv {verb}" in output.split("examples:")[1]


def test_no_words_show_the_help(equiv):
    code, output, _ = equiv()
    assert code == 0
    assert "verbs:" in output


def test_the_version_is_that_of_the_package(equiv):
    assert equiv("--version") == (0, f"equiv {package.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evalute"], "did you mean `equiv evaluate`?"),
        (["inof"], "did you mean `equiv info`?"),
        (["xyzzy"], "the verbs are train, evaluate"),
        (["--versoin"], "unknown argument: --versoin (did you mean --version?)"),
        (["info"], "MODEL"),
        (["info", "a", "--verfy"], "--verfy (did you mean --verify?)"),
        (["info", "a", "b"], "unknown argument: b"),
        (["info", "missing.safetensors"], "missing.safetensors: there is no such file"),
        (
            ["relax", "m", "s", "-o", "x", "--steps", "many"],
            "expected a whole number of at least 1",
        ),
        (["relax", "m", "s", "-o", "x", "--fmax", "0"], "expected a number above 0, got '0'"),
        (["relax", "m", "s", "-o", "x", "--pressure", "nan"], "expected a finite number"),
        (["md", "m", "s", "-o", "x.traj", "-T", "-5"], "expected a number above 0, got '-5'"),
        (["md", "m", "s", "-o", "x.traj"], "--temperature"),
        (["md", "m", "s", "-o", "x", "-T", "1", "--ensemble", "nvt"], "invalid choice: 'nvt'"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_plain_words(refused, words, expected):
    assert expected in refused(*words)


@pytest.fixture
def failing(monkeypatch):
    """A verb `fail` that raises what it is given."""

    def make(error):
        def run(args):
            raise error

        module = types.ModuleType("failing_verb")
        module.add_arguments = lambda parser: None
        module.run = run
        monkeypatch.setitem(sys.modules, "failing_verb", module)
        monkeypatch.setitem(VERBS, "fail", ("failing_verb", "fails"))

    return make


def test_an_error_of_the_user_is_one_line(failing, refused):
    failing(EquivError("the file is blue; paint it red"))
    assert refused("fail") == "error: the file is blue; paint it red\n"


def test_an_error_of_the_system_names_the_file(failing, refused):
    failing(PermissionError(13, "Permission denied", "secret.xyz"))
    assert refused("fail") == "error: secret.xyz: permission denied\n"


def test_a_defect_says_how_to_report_it_and_shows_where_on_request(failing, equiv, monkeypatch):
    failing(ZeroDivisionError("division by zero"))
    code, _, errors = equiv("fail")
    assert code == DEFECT
    assert "ZeroDivisionError: division by zero" in errors
    assert "equiv doctor" in errors
    assert "--traceback" in errors
    assert "Traceback" not in errors
    for words in (["--traceback", "fail"], ["fail", "--traceback"]):
        code, _, errors = equiv(*words)
        assert code == DEFECT
        assert "Traceback" in errors
    monkeypatch.setenv("EQUIV_TRACEBACK", "1")
    assert "Traceback" in equiv("fail")[2]
    monkeypatch.setenv("EQUIV_TRACEBACK", "0")
    assert "Traceback" not in equiv("fail")[2]


def test_an_interruption_is_clean(failing, equiv):
    failing(KeyboardInterrupt())
    assert equiv("fail") == (130, "", "interrupted\n")


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m equiv.cli.main --help | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert result.stdout == "usage: equiv VERB ...\n"
    assert result.stderr == ""


def test_importing_the_package_changes_nothing_and_is_light():
    code = (
        "import os, sys, warnings\n"
        "before = dict(os.environ), list(warnings.filters)\n"
        "import equiv, equiv.cli.main\n"
        "assert (dict(os.environ), list(warnings.filters)) == before\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_the_module_can_be_run():
    result = subprocess.run(
        [sys.executable, "-m", "equiv.cli.main", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout == f"equiv {package.__version__}\n"
    assert main(["--version"]) == 0


def test_a_full_disk_is_no_defect(failing, refused):
    failing(OSError(errno.ENOSPC, "No space left on device"))
    assert refused("fail").startswith("error: no space left on device; make room")


def test_a_terminal_without_the_letters_does_not_end_the_run(tmp_path):
    code = (
        "import sys, types\n"
        "from equiv.cli.main import VERBS, main\n"
        "verb = types.ModuleType('verb')\n"
        "verb.add_arguments = lambda parser: None\n"
        "verb.run = lambda args: print('10 meV/\\u00c5')\n"
        "sys.modules['verb'] = verb\n"
        "VERBS['verb'] = ('verb', '')\n"
        "sys.exit(main(['verb']))\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "10 meV/?\n", "")
