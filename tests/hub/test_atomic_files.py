"""Files and folders that are there completely or not at all."""

from __future__ import annotations

import pytest

from neuronsteer.errors import HubError
from neuronsteer.hub import new_folder, write_file


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.txt"
    write_file(path, lambda temporary: temporary.write_text("old"))

    def full(temporary):
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(HubError, match="Cannot write to .*x.txt.*No space left"):
        write_file(path, full)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["x.txt"]


def test_a_folder_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    folder = tmp_path / "below" / "folder"
    for content in ("old", "new"):
        with new_folder(folder) as unfinished:
            (unfinished / "x.txt").write_text(content)
        assert (folder / "x.txt").read_text() == content
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as unfinished:
        (unfinished / "x.txt").write_text("half")
        raise KeyboardInterrupt
    assert (folder / "x.txt").read_text() == "new"
    assert [each.name for each in folder.parent.iterdir()] == ["folder"]
