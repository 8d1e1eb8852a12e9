"""A file is there whole or not at all."""

from pathlib import Path

import pytest

from qpeft.files import written_whole


def write_half(path: Path) -> None:
    with written_whole(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
    with written_whole(path) as partial:
        partial.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]
