"""`equiv benchmark`."""

import sys

from equiv.cli import benchmark


def test_benchmarks_are_listed_with_what_they_measure(equiv):
    code, output, _ = equiv("benchmark")
    assert code == 0
    assert "tensor-products" in output
    assert "spherical-harmonics" in output
    assert all("  " in line and line.rstrip().endswith(".") for line in output.splitlines())


def test_a_benchmark_runs_with_its_own_options_and_returns_its_code(equiv, monkeypatch, tmp_path):
    script = tmp_path / "add_up.py"
    script.write_text(
        '"""Add up."""\nimport sys\nif __name__ == "__main__":\n'
        "    open(sys.argv[2], 'w').write(sys.executable)\n    sys.exit(3)\n"
    )
    monkeypatch.setattr(benchmark, "SCRIPTS", tmp_path)
    code, _, _ = equiv("benchmark", "add-up", "--quick", str(tmp_path / "out"))
    assert code == 3
    assert (tmp_path / "out").read_text() == sys.executable


def test_a_typo_names_the_nearest_benchmark(equiv):
    code, _, errors = equiv("benchmark", "tensor-product")
    assert code == 2
    assert "tensor-products" in errors


def test_without_the_repository_it_says_where_the_benchmarks_are(equiv, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "SCRIPTS", tmp_path)
    code, _, errors = equiv("benchmark")
    assert code == 2
    assert "clone" in errors
