"""From arguments to pictures: folders, globs, lists, shards and object stores."""

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from delugeserve.bulk.items import Item, Skipped
from delugeserve.bulk.sources import count_items, find_items, folders, open_shards
from delugeserve.bulk.sources.ahead import load_ahead
from delugeserve.bulk.sources.names import read_names
from delugeserve.bulk.sources.remote import load_url
from delugeserve.errors import Failure
from delugeserve_client import ImageError


def find(*arguments, stdin=None, **more):
    """List sources, with shards opened, and what was skipped in each argument and in shards."""
    skips = {}
    found = find_items(
        map(str, arguments),
        stdin=stdin,
        skips=lambda name, what: skips.update({name: what}),
        **more,
    )
    inside = Skipped()
    return list(open_shards(found, inside)), skips, inside


def names(items):
    return [item.source for item in items]


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")


def test_a_folder_is_listed_in_the_order_of_paths(tmp_path):
    touch(tmp_path, "b/2.png", "b/1.jpg", "a.JFIF", "b.mpo", "c/d/e.jpe", "notes.txt", ".x.png")
    touch(tmp_path, ".hidden/y.png")
    items, skips, _ = find(tmp_path)
    expected = ["a.JFIF", "b/1.jpg", "b/2.png", "b.mpo", "c/d/e.jpe"]
    assert names(items) == [str(tmp_path / path) for path in expected]
    assert skips[str(tmp_path)].others == {".txt": 1}
    assert skips[str(tmp_path)].hidden == 2


def test_a_huge_folder_is_sorted_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "SORTED_AT_ONCE", 3)
    touch(tmp_path, *(f"{number * 7 % 20:02d}.png" for number in range(20)), "05/x.png")
    touch(tmp_path, "caf\udce9.png")
    whole, _, _ = find(tmp_path)
    monkeypatch.setattr(folders, "SORTED_AT_ONCE", 1000)
    assert names(find(tmp_path)[0]) == names(whole) == sorted(names(whole), key=Path)
    assert len(whole) == 22


def test_links_are_followed_once_and_dead_ones_are_not_passed_over(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "dead.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "z").symlink_to(tmp_path / "a")
    items, _, _ = find(tmp_path)
    assert names(items) == [str(tmp_path / "a" / "1.png"), str(tmp_path / "dead.png")]


def test_a_folder_that_cannot_be_read_has_a_row(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    items, _, _ = find(tmp_path)
    assert [item.error is not None for item in items] == [False, True, False]
    assert items[1].source == str(tmp_path / "b")
    assert "permission denied" in items[1].error.problem


def test_one_bad_argument_does_not_stop_the_others(tmp_path):
    touch(tmp_path, "1.png", "empty/notes.txt")
    items, _, _ = find(tmp_path / "empty", tmp_path / "*.gif", "nfs9://host/x", tmp_path / "1.png")
    assert [item.error is not None for item in items] == [True, True, True, False]
    assert "no images" in items[0].error.problem
    assert "No image matches" in items[1].error.problem
    assert "nfs9" in items[2].error.problem


def test_a_package_that_is_missing_is_named(monkeypatch):
    import fsspec

    def lack(url):
        raise ImportError("Install what is needed", name="it")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lack)
    for url, package in (("s3://bucket/photos", "s3fs"), ("sftp://host/photos", "paramiko")):
        (item,), _, _ = find(url)
        assert item.error.remedy == f"Install it with: pip install {package}"
    (item,), _, _ = find("git://photos")  # no name of a package is guessed
    assert "Install what is needed" in item.error.problem
    assert "pip install" not in item.error.remedy
    with pytest.raises(ImageError, match="s3fs"):
        load_url("s3://bucket/1.png")


def test_a_file_system_that_cannot_be_opened_has_a_row(tmp_path, monkeypatch):
    import fsspec

    def refuse(url):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    touch(tmp_path, "1.png")
    (bad, good), _, _ = find("ftp://127.0.0.1:1/x.jpg", tmp_path)
    assert "Connection refused" in bad.error.problem
    assert good.error is None


def test_temporary_files_that_cannot_be_written_end_the_run(tmp_path, monkeypatch):
    """The folder itself can be read: its images must not be missing from the output."""

    def full():
        raise OSError(28, "No space left on device")

    touch(tmp_path, *(f"{number}.png" for number in range(10)))
    monkeypatch.setattr(folders, "SORTED_AT_ONCE", 3)
    monkeypatch.setattr(folders.tempfile, "TemporaryFile", full)
    with pytest.raises(Failure) as caught:
        find(tmp_path)
    assert "TMPDIR" in caught.value.remedy


def test_web_addresses_are_images(tmp_path):
    urls = ["http://host/1.jpg?width=2", "https://host/[a]/**/2.tar"]
    items, _, _ = find(*urls)
    assert [(item.source, item.content, item.error) for item in items] == [
        (url, url, None) for url in urls
    ]
    assert count_items(urls) == 2


def test_a_glob(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.txt", "b/c/3.png", "[x].png")
    items, skips, _ = find(tmp_path / "**" / "*")
    assert names(items) == [str(tmp_path / path) for path in ("[x].png", "a/1.png", "b/c/3.png")]
    assert skips[str(tmp_path / "**" / "*")].others == {".txt": 1}
    assert names(find(tmp_path / "[x].png")[0]) == [str(tmp_path / "[x].png")]  # a name that exists


def test_a_glob_visits_each_folder_once(tmp_path, monkeypatch):
    touch(tmp_path, "g/a.jpg", "g/sub/b.jpg", "g/sub/c.txt", "g/.hidden/d.jpg")
    for name in ("a", "up"):  # with two links, following them would not end
        (tmp_path / "g" / name).symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    everything = ["g/a.jpg", "g/sub/b.jpg"]
    assert names(find("**/*.jpg")[0]) == everything
    assert names(find("./**/*.jpg")[0]) == [f"./{name}" for name in everything]
    assert names(find(tmp_path / "g?" / "**" / "*.jpg")[0]) == [str(tmp_path / "g?/**/*.jpg")]
    assert names(find("[fg]/**")[0]) == everything
    items, skips, _ = find("**/sub/*")
    assert names(items) == ["g/sub/b.jpg"]
    assert skips["**/sub/*"].others == {".txt": 1}
    assert skips["**/sub/*"].hidden == 0


def test_what_is_written_is_no_source(tmp_path):
    touch(tmp_path, "1.png", "labels.parquet")
    items, skips, _ = find(tmp_path, left_out=lambda path: path.endswith("labels.parquet"))
    assert names(items) == [str(tmp_path / "1.png")]
    assert not skips


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"a.png\nb c.png\r\n\n/d/caf\xe9.png", ["a.png", "b c.png", "/d/caf\udce9.png"]),
        (b"a\nb.png\0c.png\0", ["a\nb.png", "c.png"]),
        (b"", []),
        (b"one.png", ["one.png"]),
    ],
)
def test_a_list_on_standard_input(given, expected):
    class Slow(io.BytesIO):
        def read1(self, _size):
            return self.read(3)

    assert list(read_names(io.BytesIO(given))) == expected
    if b"\0" not in given:  # with NUL, the first chunk must reach the first NUL
        assert list(read_names(Slow(given))) == expected


def test_a_list_may_name_folders_but_no_globs(tmp_path):
    touch(tmp_path, "a/1.png", "2.png")
    listed = f"{tmp_path}/a\n{tmp_path}/*.png\n".encode()
    items, _, _ = find("-", stdin=io.BytesIO(listed))
    assert names(items) == [f"{tmp_path}/a/1.png", f"{tmp_path}/*.png"]


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_a_tar_shard(tmp_path, suffix):
    path = tmp_path / f"shard{suffix}"
    members = [("1.jpg", b"one"), ("1.cls", b"7"), ("sub/2.png", b"two"), (".x.png", b"no")]
    write_tar(path, members, "w" if suffix == ".tar" else "w:gz")
    items, _, inside = find(path)
    assert [(item.source, item.content) for item in items] == [
        (f"{path}:1.jpg", b"one"),
        (f"{path}:sub/2.png", b"two"),
    ]
    assert all(item.shard == items[0].shard for item in items)
    assert (inside.others, inside.hidden) == ({".cls": 1}, 1)


def test_a_link_in_a_tar_has_a_row(tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("1.jpg", tarfile.SYMTYPE), ("2.jpg", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "0.jpg"
            archive.addfile(entry)
    items, _, inside = find(path)
    assert names(items) == [f"{path}:1.jpg", f"{path}:2.jpg"]
    assert all("link" in item.error.problem for item in items)
    assert not inside.others


@pytest.mark.parametrize("kept", [0.5, 0.79])
def test_a_truncated_tar_says_so_after_what_is_whole(tmp_path, kept):
    path = tmp_path / "shard.tar"
    write_tar(path, [(f"{number}.png", bytes(2048)) for number in range(20)])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) // 512 * 512])
    items, _, _ = find(tmp_path)
    assert 5 < len(items) < 22
    assert items[-1].source == str(path)
    assert "damaged" in items[-1].error.problem
    assert all(item.error is None for item in items[:-1])


def test_a_tar_that_ends_between_two_members_is_truncated(tmp_path):
    path = tmp_path / "shard.tar"
    write_tar(path, [("1.png", bytes(512)), ("2.png", bytes(512))])
    path.write_bytes(path.read_bytes()[:2048])  # both, without the end of the archive
    items, _, _ = find(path)
    assert len(items) == 3
    assert items[-1].error is not None


def write_parquet(path, values, column="image"):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        pyarrow.table({column: values, "label": list(range(len(values)))}), path, row_group_size=2
    )


@pytest.mark.parametrize("struct", [True, False])
def test_a_parquet_shard(tmp_path, struct):
    path = tmp_path / "shard.parquet"
    contents = [b"one", b"two", None, b"four", b"five"]
    values = [{"bytes": one, "path": "x"} for one in contents] if struct else contents
    write_parquet(path, values)
    items, _, _ = find(path)
    assert [item.content for item in items if item.error is None] == [
        b"one",
        b"two",
        b"four",
        b"five",
    ]
    assert items[3].source == f"{path}:3"
    assert items[2].error is not None
    assert count_items([str(path)]) == 5


def test_counting_takes_no_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert count_items([str(tmp_path / "shard.parquet")]) is None


def test_a_parquet_file_without_images_is_passed_over_unless_asked_for(tmp_path):
    write_parquet(tmp_path / "labels.parquet", [1.0, 2.0], "probability")
    touch(tmp_path, "1.png")
    items, _, inside = find(tmp_path)
    assert names(items) == [str(tmp_path / "1.png")]
    assert inside.others == {".parquet without images": 1}
    (item,), _, _ = find(tmp_path / "labels.parquet")
    assert "no images" in item.error.problem
    (tmp_path / "labels.parquet").write_bytes(b"damaged")
    (item,), _, _ = find(tmp_path / "labels.parquet")
    assert "damaged" in item.error.problem


def test_an_object_store(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for name in ("photos/b/2.png", "photos/a.jpg", "photos/notes.txt", "photos/.x.png"):
        store.pipe(f"/{tmp_path.name}/{name}", name.encode())
    write_tar(tmp_path / "s.tar", [("1.png", b"in tar")])
    store.pipe(f"/{tmp_path.name}/photos/s.tar", (tmp_path / "s.tar").read_bytes())
    base = f"memory:///{tmp_path.name}/photos"
    try:
        items, skips, _ = find(base)
        loaded = list(load_ahead(items, at_once=2))
        assert [(item.source, item.content) for item in loaded] == [
            (f"{base}/a.jpg", b"photos/a.jpg"),
            (f"{base}/b/2.png", b"photos/b/2.png"),
            (f"{base}/s.tar:1.png", b"in tar"),
        ]
        assert skips[base].others == {".txt": 1}
        assert names(find(f"{base}/*.jpg")[0]) == [f"{base}/a.jpg"]
        (missing,), _, _ = find(f"{base}/none.png")
        assert "no such file" in missing.error.problem
        store.rm(f"/{tmp_path.name}/photos/a.jpg")
        gone = next(iter(load_ahead(items)))
        assert gone.source == f"{base}/a.jpg"
        assert gone.error is not None
    finally:
        store.rm(f"/{tmp_path.name}", recursive=True)


def test_reading_ahead_keeps_the_order_and_is_bounded():
    started = []

    def load(number):
        started.append(number)
        return bytes([number])

    items = [
        Item(str(number), load=lambda number=number: load(number))
        if number % 3
        else Item(str(number))
        for number in range(50)
    ]
    ahead = load_ahead(iter(items), at_once=4)
    assert next(ahead).source == "0"
    assert len(started) <= 4
    assert names(ahead) == [str(number) for number in range(1, 50)]


def test_counting_gives_up_in_time(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.png", "3.png", "notes.txt", ".hidden.png")
    assert count_items([str(tmp_path), "x.png"]) == 4
    assert count_items([str(tmp_path)], patience=0) is None
    assert count_items(["-"]) is None
