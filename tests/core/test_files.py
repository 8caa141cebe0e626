"""Atomic files: the old content or the new one, nothing between, nothing left over."""

import os
import threading
from pathlib import Path

import pytest

from minisys.core import files
from minisys.core.files import atomic_path, read_json, remove_partials, write_atomic, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_bytes_functions_and_missing_folders(tmp_path):
    target = tmp_path / "a" / "b" / "file.bin"
    write_atomic(target, b"one")
    assert target.read_bytes() == b"one"
    write_atomic(str(target), lambda stream: [stream.write(part) for part in (b"t", b"wo")])
    assert target.read_bytes() == b"two"
    assert names(target.parent) == ["file.bin"]


def interrupted(target):
    with atomic_path(target) as partial:
        partial.write_bytes(b"new")
        raise KeyboardInterrupt


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    write_atomic(target, b"old")

    def half(stream):
        stream.write(b"ne")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_atomic(target, half)
    with pytest.raises(KeyboardInterrupt):
        interrupted(target)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_of_the_system_leaves_the_old_file(tmp_path, monkeypatch, call):
    target = tmp_path / "file"
    write_atomic(target, b"old")

    def refuse(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, call, refuse)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_the_content_is_on_the_disk_before_the_name_changes_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")) if os.path.isdir("/proc/self/fd") else None
        events.append(("fsync", None if path is None else path.suffix))
        fsync(descriptor)

    def spy_replace(source, target):
        assert Path(source).parent == Path(target).parent
        assert Path(source).read_bytes() == b"new"
        events.append(("replace", Path(source).suffix))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", spy_fsync)
    monkeypatch.setattr(files.os, "replace", spy_replace)
    write_atomic(tmp_path / "file", b"new")
    assert [event[0] for event in events] == ["fsync", "replace", "fsync"]
    assert events[0][1] in (".partial", None)


def test_two_writers_at_once_do_not_mix(tmp_path):
    target = tmp_path / "file"
    contents = [bytes([index]) * 200_000 for index in range(4)]
    failures = []

    def write(content):
        try:
            for _ in range(5):
                write_atomic(target, content)
                assert target.read_bytes() in contents
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert target.read_bytes() in contents
    assert names(tmp_path) == ["file"]


def test_bad_paths(tmp_path):
    with pytest.raises(ValueError, match="path: got the folder"):
        write_atomic(tmp_path, b"")
    with pytest.raises(ValueError, match="path: got no file"), atomic_path(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


def test_partials_of_a_pattern_are_removed_and_no_others(tmp_path):
    for name in (
        "a-1.json.0123abcd.partial",
        "a-2.json.4567cdef.partial",
        "b.json.0123abcd.partial",
        "a-1.json",
    ):
        (tmp_path / name).write_text("")
    with atomic_path(tmp_path / "a-1.json") as partial:
        partial.write_text("")
        (tmp_path / partial.name.replace("a-1", "a-3")).write_text("")  # as a killed writer leaves it
    removed = remove_partials(tmp_path, "a-*.json")
    assert [path.name[:8] for path in removed] == ["a-1.json", "a-2.json", "a-3.json"]
    assert names(tmp_path) == ["a-1.json", "b.json.0123abcd.partial"]


def test_json_round_trip(tmp_path):
    value = {"name": "φ", "list": [1, 2.5, None, True], "nested": {"a": "b"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
    assert "φ".encode() in (tmp_path / "a.json").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {"a": object()}, {(1, 2): 3}])
def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path, value):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="value: got something that is no JSON"):
        write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == 1
    assert names(tmp_path) == ["a.json"]


def test_reading_broken_json_names_file_and_place(tmp_path):
    (tmp_path / "a.json").write_text('{\n  "a": 1,\n  oops\n}')
    with pytest.raises(ValueError, match=r"a\.json: got no JSON at line 3, column 3"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(ValueError, match=r"b\.json: got bytes that are no UTF-8"):
        read_json(tmp_path / "b.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "c.json")
