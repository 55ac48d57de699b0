import contextlib
import errno
import os
import stat
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from npvgg.formats import files
from npvgg.formats.files import (
    atomic_write,
    open_regular,
    read_into,
    remove_unfinished,
    write_folder,
)


def listing(directory):
    return sorted(os.listdir(directory))


@pytest.mark.parametrize(
    "chunks", [b"hello", bytearray(b"hello"), memoryview(b"hello"), [b"he", b"", b"llo"]]
)
def test_writes_the_chunks(tmp_path, chunks):
    atomic_write(tmp_path / "a", chunks)
    assert (tmp_path / "a").read_bytes() == b"hello"
    assert listing(tmp_path) == ["a"]


def test_writes_views_of_arrays(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    atomic_write(tmp_path / "a", [array.data])
    assert (tmp_path / "a").read_bytes() == array.tobytes()


def test_an_existing_file_stays_without_overwrite(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    atomic_write(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert listing(tmp_path) == ["a"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    def chunks():
        yield b"mine"
        (tmp_path / "a").write_bytes(b"theirs")

    with pytest.raises(FileExistsError, match="overwrite=True"):
        atomic_write(tmp_path / "a", chunks())
    assert (tmp_path / "a").read_bytes() == b"theirs"
    assert listing(tmp_path) == ["a"]


def test_without_hard_links_the_rename_still_looks_first(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError("this file system has no hard links")

    monkeypatch.setattr(os, "link", no_links)
    atomic_write(tmp_path / "a", b"mine")
    with pytest.raises(FileExistsError):
        atomic_write(tmp_path / "a", b"again")
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert listing(tmp_path) == ["a"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_half_way_leaves_the_old_state(tmp_path, failure, overwrite):
    if overwrite:
        (tmp_path / "a").write_bytes(b"old")
    before = listing(tmp_path)

    def chunks():
        yield b"half"
        raise failure

    with pytest.raises(failure):
        atomic_write(tmp_path / "a", chunks(), overwrite=overwrite)
    assert listing(tmp_path) == before
    assert not overwrite or (tmp_path / "a").read_bytes() == b"old"


def test_readers_see_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "a"
    old, new = b"o" * 200_000, b"n" * 200_000
    atomic_write(path, old)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        atomic_write(path, [new[:100_000], new[100_000:]], overwrite=True)
        atomic_write(path, [old[:100_000], old[100_000:]], overwrite=True)
    done.set()
    reader.join()
    assert seen <= {old, new}
    assert seen


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of the file size is POSIX only")
def test_a_full_disk_leaves_nothing(tmp_path):
    script = """
        import resource, signal, sys
        from npvgg.formats.files import atomic_write
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            atomic_write(sys.argv[1], [bytes(3000), bytes(3000)], overwrite=True)
        except OSError as error:
            print(error.strerror, error.filename == sys.argv[1])
    """
    (tmp_path / "a").write_bytes(b"old")
    got = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "a"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert got.stdout.strip() == "File too large True"
    assert (tmp_path / "a").read_bytes() == b"old"
    assert listing(tmp_path) == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits are POSIX only")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_a_link_is_followed_when_replacing_and_is_in_the_way_when_not(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(FileExistsError):
        atomic_write(tmp_path / "link", b"new")
    atomic_write(tmp_path / "link", b"new", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_directory_is_not_replaced_and_a_missing_one_not_made(tmp_path):
    with pytest.raises(OSError, match="regular file"):
        atomic_write(tmp_path, b"x", overwrite=True)
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "no" / "a", b"x")
    with pytest.raises(OSError, match="null"):
        atomic_write(f"{tmp_path}/a\0b", b"x")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("write", ["file", "folder"])
def test_a_process_that_ends_amid_a_write_leaves_nothing(tmp_path, monkeypatch, write):
    """What another thread is writing is removed, and it cannot begin anything any more."""
    monkeypatch.setattr(files, "_beginning", threading.Lock())
    amid, end = threading.Event(), threading.Event()

    def chunks():
        yield b"half"
        amid.set()
        end.wait(20)

    def work():
        with contextlib.suppress(OSError):  # its file is gone
            if write == "file":
                atomic_write(tmp_path / "a", chunks())
            else:
                write_folder(tmp_path / "a", {"x": chunks()})
        atomic_write(tmp_path / "b", b"later")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert amid.wait(20)
    assert len(listing(tmp_path)) == 1
    remove_unfinished()
    assert listing(tmp_path) == []
    end.set()
    thread.join(0.2)
    assert (thread.is_alive(), listing(tmp_path)) == (True, [])  # it waits for ever
    files._beginning.release()
    thread.join(20)


@pytest.mark.parametrize("error", [errno.EBUSY, errno.EXDEV])
def test_what_cannot_be_renamed_onto_is_written_in_place(tmp_path, monkeypatch, error):
    """As a file that is mounted into a container on its own."""

    def replace(*args):
        raise OSError(error, "no")

    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "a").write_bytes(b"longer than the new one")
    before = (tmp_path / "a").stat().st_ino
    atomic_write(tmp_path / "a", b"new", overwrite=True)
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "a").stat().st_ino) == (b"new", before)
    assert listing(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_is_no_failure(tmp_path, monkeypatch, error):
    def fsync(descriptor):
        raise OSError(error, "no")

    monkeypatch.setattr(os, "fsync", fsync)
    atomic_write(tmp_path / "a", b"x")
    assert listing(tmp_path) == ["a"]
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(5, "I/O")))
    with pytest.raises(OSError, match="I/O"):
        atomic_write(tmp_path / "b", b"x")


def test_open_regular_refuses_what_is_no_file(tmp_path):
    with pytest.raises(OSError, match="directory"):
        open_regular(tmp_path)
    with pytest.raises(OSError, match="null"):
        open_regular("a\0b")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX only")
def test_open_regular_does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="regular file"):
        open_regular(tmp_path / "pipe")


def test_read_into_fills_or_fails(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    with open_regular(tmp_path / "a") as file:
        buffer = bytearray(3)
        read_into(file, memoryview(buffer))
        assert buffer == b"hel"
        with pytest.raises(OSError, match="cut short"):
            read_into(file, memoryview(bytearray(3)))


@pytest.mark.parametrize("other", ["notes.txt", "api", "link.svg", "pipe.svg"])
def test_a_folder_with_something_else_in_it_is_not_replaced(tmp_path, other):
    folder = tmp_path / "drawings"
    write_folder(folder, {"1.svg": b"old", "2.svg": b"old"})
    place = folder / other
    make = {"api": os.mkdir, "link.svg": lambda p: p.symlink_to("1.svg"), "pipe.svg": os.mkfifo}
    make.get(other, lambda p: p.write_text("mine"))(place)
    with pytest.raises(OSError, match=f"holds '{other}', which would be lost"):
        write_folder(folder, {"1.svg": b"new"}, overwrite=True)
    assert sorted(os.listdir(folder)) == sorted(["1.svg", "2.svg", other])
    assert (folder / "1.svg").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["file", "pipe", "link"])
def test_a_folder_takes_the_place_of_folders_alone(tmp_path, kind):
    """As root, --force onto /dev/null once made it a folder."""
    place = tmp_path / "there"
    make = {
        "file": lambda p: p.touch(),
        "pipe": os.mkfifo,
        "link": lambda p: p.symlink_to(tmp_path / "x"),
    }
    make[kind](place)
    (tmp_path / "x").touch()
    before = os.lstat(place)
    with pytest.raises(NotADirectoryError, match="expected a folder to replace"):
        write_folder(place, {"1.svg": b"new"}, overwrite=True)
    assert os.lstat(place) == before
    assert sorted(os.listdir(tmp_path)) == ["there", "x"]
