"""Files are the old one or the whole new one."""

import errno

import pytest

from equiv.atomic import replacing, write_bytes
from equiv.errors import EquivError


def test_content_appears_whole(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    write_bytes(path, b"new content")
    assert path.read_bytes() == b"new content"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_keeps_the_old_content_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def half_done():
        with replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_done()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_has_the_suffixes_of_the_file(tmp_path):
    with replacing(tmp_path / "a.tar.gz") as temporary:
        assert temporary.suffixes[-2:] == [".tar", ".gz"]
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"")


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(EquivError, match="does not exist"):
        write_bytes(tmp_path / "nowhere" / "a", b"")
    with pytest.raises(EquivError, match="is a folder"):
        write_bytes(tmp_path, b"")


def test_a_full_disk_names_the_file(tmp_path):
    def fill():
        with replacing(tmp_path / "a.bin"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        fill()
    assert caught.value.filename == str(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []
