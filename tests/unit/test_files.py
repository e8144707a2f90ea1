"""The file port: the OS and its fake do the same, and the fake forgets what a disk may forget."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mpy6a.clock import Clock, OsClock
from mpy6a.files import Files, Locked, OsFile, OsFiles, write_atomically
from tests.fakes.files import POWER_CUT, FakeFiles, PowerCut


@pytest.fixture(params=["os", "fake"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, str]:
    """Files, and an empty directory in them."""
    if request.param == "os":
        return OsFiles(), str(tmp_path)
    files = FakeFiles()
    files.make_dir("/place")
    files.sync_dir("/")
    return files, "/place"


def test_what_is_written_is_read(place: tuple[Files, str]) -> None:
    """At offsets, synced or not, up to the end of the file."""
    files, directory = place
    file = files.open(f"{directory}/a", create=True)
    file.zero(0, 3 << 20)
    file.write(b"hello", 10)
    file.write_synced(bytearray(b"world"), 4000)
    file.write_synced(memoryview(b"xyz")[1:], 0)
    file.sync()
    assert file.size() == 3 << 20
    assert file.read(5, 10) == b"hello"
    assert file.read(6, 4000) == b"world\0"
    assert file.read(2, 0) == b"yz"
    assert file.read(100, (3 << 20) - 10) == bytes(10)
    assert file.read(100, 4 << 20) == b""
    file.close()
    again = files.open(f"{directory}/a", write=False)
    assert again.read(5, 10) == b"hello"
    again.close()


def test_names_are_made_renamed_and_removed(place: tuple[Files, str]) -> None:
    """And each is there at once."""
    files, directory = place
    files.make_dir(f"{directory}/sub")
    files.make_dir(f"{directory}/sub")
    for name in ("b", "a"):
        files.open(f"{directory}/sub/{name}", create=True).close()
    assert files.list(f"{directory}/sub") == ["a", "b"]
    files.rename(f"{directory}/sub/a", f"{directory}/sub/b")
    files.sync_dir(f"{directory}/sub")
    assert files.list(f"{directory}/sub") == ["b"]
    files.unlink(f"{directory}/sub/b")
    assert not files.exists(f"{directory}/sub/b")
    assert files.exists(f"{directory}/sub")


def test_what_is_not_there_is_an_os_error(place: tuple[Files, str]) -> None:
    """With number and path."""
    files, directory = place
    for act in (
        lambda: files.open(f"{directory}/none"),
        lambda: files.unlink(f"{directory}/none"),
        lambda: files.rename(f"{directory}/none", f"{directory}/other"),
        lambda: files.list(f"{directory}/none"),
    ):
        with pytest.raises(OSError, match="No such file") as caught:
            act()
        assert caught.value.errno == errno.ENOENT
        assert "none" in str(caught.value.filename)


def test_a_file_is_replaced_whole(place: tuple[Files, str]) -> None:
    """The old content or the new, and nothing of a draft left behind."""
    files, directory = place
    files.open(f"{directory}/x.new", create=True).close()  # a draft of a process that was killed
    for content in (b"old, and longer", b"new"):
        write_atomically(files, f"{directory}/x", content)
        file = files.open(f"{directory}/x", write=False)
        assert file.read(100, 0) == content
        file.close()
    assert files.list(directory) == ["x"]


def test_a_lock_has_one_holder(place: tuple[Files, str]) -> None:
    """It is free again after release; asking who holds it takes nothing."""
    files, directory = place
    path = f"{directory}/lock"
    assert files.locked_by(path) is None
    lock = files.lock(path)
    pid = os.getpid() if isinstance(files, OsFiles) else 1
    assert files.locked_by(path) == pid
    with pytest.raises(Locked) as caught:
        files.lock(path)
    assert caught.value.pid == pid
    lock.release()
    lock.release()
    assert files.locked_by(path) is None
    files.lock(path).release()


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    """However it ends; until then its pid is named."""
    path = str(tmp_path / "lock")
    code = f"from mpy6a.files import OsFiles; l = OsFiles().lock({path!r}); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert OsFiles().locked_by(path) == holder.pid
        with pytest.raises(Locked) as caught:
            OsFiles().lock(path)
        assert caught.value.pid == holder.pid
    finally:
        holder.kill()
        holder.communicate()
    OsFiles().lock(path).release()


def test_a_new_file_is_its_users_alone(tmp_path: Path) -> None:
    """Records may be secret."""
    files = OsFiles()
    files.open(str(tmp_path / "a"), create=True).close()
    files.make_dir(str(tmp_path / "d"))
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0
    assert (tmp_path / "d").stat().st_mode & 0o077 == 0


def test_a_file_system_without_dsync_writes_and_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two calls instead of the one; any other error is passed on."""
    calls: list[str] = []

    def refuse(fd: int, buffers: object, offset: int, flags: int) -> int:
        calls.append("pwritev")
        raise OSError(errno.EOPNOTSUPP, "not here")

    sync = os.fdatasync

    def count(fd: int) -> None:
        calls.append("fdatasync")
        sync(fd)

    monkeypatch.setattr(os, "pwritev", refuse)
    monkeypatch.setattr(os, "fdatasync", count)
    file = OsFiles().open(str(tmp_path / "a"), create=True)
    file.write_synced(b"abc", 0)
    file.write_synced(b"def", 3)
    assert file.read(6, 0) == b"abcdef"
    assert calls == ["pwritev", "fdatasync", "fdatasync"]
    file.close()

    def fail(fd: int, buffers: object, offset: int, flags: int) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "pwritev", fail)
    file = OsFiles().open(str(tmp_path / "b"), create=True)
    with pytest.raises(OSError, match="broken"):
        file.write_synced(b"abc", 0)
    file.close()


def test_short_writes_and_reads_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may do less than it was asked for."""
    pwrite, pwritev, pread = os.pwrite, os.pwritev, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, memoryview(data)[:3], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, data, at, flags: pwritev(fd, [memoryview(data[0])[:3]], at, flags))
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, 3), at))
    file = OsFiles().open(str(tmp_path / "a"), create=True)
    assert isinstance(file, OsFile)
    file.write(b"0123456789", 0)
    file.write_synced(b"abcdefgh", 10)
    assert file.read(100, 0) == b"0123456789abcdefgh"
    file.close()


def test_a_crash_keeps_what_was_synced_and_any_part_of_the_rest() -> None:
    """Of the fake: each sector and each name by itself, the old or the new."""
    seen = set()
    for seed in range(200):
        files = FakeFiles(random.Random(seed))
        file = files.open("/a", create=True)
        file.write(b"A" * 1024, 0)
        file.sync()
        files.sync_dir("/")
        file.write(b"B" * 1024, 0)
        files.open("/b", create=True)
        files.crash()
        content = files.content("/a")
        seen.add((bytes(content[::512]), files.exists("/b")))
    assert seen == {(content, there) for content in (b"AA", b"AB", b"BA", b"BB") for there in (True, False)}


def test_a_failed_sync_is_read_back_and_lost() -> None:
    """Of the fake, as of Linux: the pages count as clean, and no later sync writes them."""
    lost = 0
    for seed in range(20):
        files = FakeFiles(random.Random(seed))
        file = files.open("/a", create=True)
        file.write(b"A" * 512, 0)
        file.sync()
        files.sync_dir("/")
        file.write(b"B" * 512, 0)
        files.fail("sync", 1)
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        file.sync()
        assert file.read(1, 0) == b"B"
        files.crash()
        lost += files.content("/a")[:1] == b"A"
    assert 0 < lost < 20


def test_faults_come_when_they_are_due() -> None:
    """Of the fake: the nth operation of its kind, once or for good; a power cut is no error of a file."""
    files = FakeFiles()
    file = files.open("/a", create=True)
    files.fail("write", 2)
    file.write(b"a", 0)
    with pytest.raises(OSError, match="Input/output"):
        file.write(b"a", 0)
    file.write(b"a", 0)
    files.fail("write", 1, errno.ENOSPC, lasting=True)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            file.write(b"a", 0)
    files.kill()
    with pytest.raises(AssertionError, match="process's end"):
        file.write(b"a", 0)
    file = files.open("/a")
    files.fail("sync", 1, POWER_CUT)
    with pytest.raises(PowerCut):
        file.write_synced(b"a", 0)


def test_the_clocks_of_the_os_are_milliseconds() -> None:
    """The monotonic one does not go back; the wall shows this century."""
    clock: Clock = OsClock()
    first = clock.monotonic_ms()
    assert 0 <= clock.monotonic_ms() - first < 60_000
    assert clock.wall_ms() > 1_577_836_800_000


def test_work_is_done_beside_the_caller_and_its_failure_comes_with_the_result(place: tuple[Files, str]) -> None:
    """Whoever asks for the result gets what was raised."""
    files, where = place
    done: list[int] = []
    aside = files.aside(lambda: done.append(1))
    aside.result()
    assert aside.done
    assert done == [1]
    lost = files.aside(lambda: files.unlink(f"{where}/there is none"))
    with pytest.raises(FileNotFoundError):
        lost.result()


def test_without_a_thread_to_spare_the_caller_does_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's limit of processes is used up by others: the pipe waits for the disk, and goes on."""

    def refuse(work: Callable[[], None], arguments: tuple[()]) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    done: list[int] = []
    aside = OsFiles().aside(lambda: done.append(1))
    assert aside.done
    aside.result()
    assert done == [1]
