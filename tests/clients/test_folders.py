import os
import sys
from pathlib import Path

import pytest

from delugeserve_client.folders import find_images


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_below_a_folder_are_sorted(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "sub/deep/c.webp", "sub/a.tiff")
    contents = find_images(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in contents.images]
    assert names == ["a.png", "b.JPG", "sub/a.tiff", "sub/deep/c.webp"]
    assert not contents.others
    assert (contents.hidden, contents.broken, contents.unreadable) == (0, [], [])


def test_what_is_skipped_is_counted(tmp_path):
    touch(tmp_path, "a.png", "notes.txt", "sub/more.TXT", "raw.xcf", "README")
    touch(tmp_path, ".DS_Store", "._a.png", ".git/x.png", "sub/.thumbs/y.png")
    contents = find_images(str(tmp_path))
    assert [path.name for path in contents.images] == ["a.png"]
    assert contents.others == {".txt": 2, ".xcf": 1, "": 1}
    assert contents.hidden == 4


def test_broken_links_and_pipes(tmp_path):
    (tmp_path / "dead.png").symlink_to("/no/such/file")
    (tmp_path / "self.gif").symlink_to(tmp_path / "self.gif")
    os.mkfifo(tmp_path / "pipe.jpg")
    contents = find_images(tmp_path)
    assert contents.images == []
    assert [path.name for path in contents.broken] == ["dead.png", "pipe.jpg", "self.gif"]


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "real/a.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "real")
    (folder / "same").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    assert [path.name for path in find_images(folder).images] == ["a.png"]


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "closed/b.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):  # root may read everything, so permissions do not do
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    contents = find_images(tmp_path)
    assert [path.name for path in contents.images] == ["a.png"]
    assert contents.unreadable == [tmp_path / "closed"]
    with pytest.raises(PermissionError):
        find_images(tmp_path / "closed")


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        find_images(tmp_path / "missing")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only on Linux")
def test_names_that_are_not_utf8(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).touch()
    assert [path.name for path in find_images(tmp_path).images] == ["caf\udce9.png"]
