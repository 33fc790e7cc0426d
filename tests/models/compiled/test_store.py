import os
import stat

import pytest

from equiv.errors import EquivError
from equiv.models.compiled import store
from equiv.models.compiled.program import CODE, FACTS


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIV_CACHE_DIR", str(tmp_path))


def test_the_folder_is_for_its_owner_only():
    assert stat.S_IMODE(store.root().stat().st_mode) == 0o700


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_folder_that_others_can_write_to_is_refused():
    store.root().chmod(0o777)
    with pytest.raises(EquivError, match="others can write to"):
        store.root()


def test_a_program_is_there_when_it_is_whole_and_gone_when_discarded():
    with pytest.raises(ZeroDivisionError), store.adding("broken"):
        raise ZeroDivisionError
    assert store.find("broken") is None
    with store.adding("good") as folder:
        (folder / CODE).write_bytes(b"code")
        (folder / FACTS).write_text("{}")
    assert store.find("good") == store.root() / "good"
    assert [path.name for path in store.root().iterdir()] == ["good"]
    store.discard("good")
    assert store.find("good") is None


def test_the_programs_unused_for_longest_are_removed(monkeypatch):
    monkeypatch.setattr(store, "KEPT", 2)
    for i in range(4):
        with store.adding(f"p{i}") as folder:
            (folder / CODE).write_bytes(b"")
            (folder / FACTS).write_text("{}")
        os.utime(store.root() / f"p{i}", (i, i))
    assert sorted(path.name for path in store.root().iterdir()) in (["p2", "p3"], ["p1", "p3"])


def test_the_key_depends_on_facts_and_threads():
    assert store.key({"a": 1}) == store.key({"a": 1})
    assert store.key({"a": 1}) != store.key({"a": 2})
