"""Files are whole or are not there, whatever ends their writing."""

from contextlib import suppress
from pathlib import Path

import pytest

from pics_common import storage
from pics_common.files import new_file, write_atomic


def test_a_file_appears_only_when_it_is_put_into_place(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.txt"
    with new_file(path) as (file, commit):
        file.write(b"first")
        assert not path.exists()
        commit()
        assert path.read_bytes() == b"first"
    write_atomic(path, b"second")
    with new_file(path) as (file, _):
        file.write(b"never put into place")
    with suppress(KeyboardInterrupt), new_file(path) as (file, _):
        file.write(b"cut off")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_two_who_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with new_file(path) as (one, commit_one), new_file(path) as (other, commit_other):
        one.write(b"one")
        other.write(b"other")
        commit_other()
        commit_one()
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", ["local", "memory"])
def test_a_finished_file_is_uploaded_whole(tmp_path: Path, there: str) -> None:
    data = bytes(range(256)) * 40_000
    (tmp_path / "a").write_bytes(data)
    url = str(tmp_path / "deep" / "b") if there == "local" else "memory://files/deep/b"
    storage.upload(tmp_path / "a", url)
    assert storage.read(url) == data
