"""The process that writes checkpoints, and the pipe's end of it: the real follower, state and writer, over a file in
memory whose commits are durable as wholes (that SQLite keeps this is shown elsewhere, by real kills)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import closing
from random import Random
from typing import TYPE_CHECKING, Any, Final

import apsw

from mpy6a import limits
from mpy6a.checkpoint.child import Checkpoints
from mpy6a.checkpoint.copying import Snapshot
from mpy6a.checkpoint.driver import Done
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.checkpoint.loading import load_state
from mpy6a.checkpoint.writing import CheckpointWriter
from mpy6a.errors import DamagedLog, DiskFull
from mpy6a.files import Files
from mpy6a.log.following import LogFollower

from .oracle import Violation

if TYPE_CHECKING:
    from .world import World

_numbers: Final = itertools.count()


class Disk:
    """A checkpoint's file: it outlives whoever is connected."""

    def __init__(self) -> None:
        self._name = f"sim-{next(_numbers)}"
        self._kept = self._connect("", True)
        self._open: list[CheckpointFile] = []

    def _connect(self, path: str, write: bool) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"file:/{self._name}?vfs=memdb", flags=flags)

    def open(self, *, write: bool = False) -> CheckpointFile:
        """As a process does that begins."""
        file = CheckpointFile.open("", write=write, connect=self._connect)
        self._open.append(file)
        return file

    def let_go(self) -> None:
        """The processes that had it open are gone."""
        for file in self._open:
            file.close()
        self._open.clear()

    def header(self) -> CheckpointHeader | None:
        """What the last commit stands for."""
        with closing(CheckpointFile.open("", connect=self._connect)) as file:
            return file.header()

    def copy(self, path: str) -> None:
        """As it would stand on a disk, with checksums on its pages."""
        with closing(CheckpointFile.open("", connect=self._connect)) as file:
            _Moment(file).copy(path)


class _Moment(Snapshot):
    """Of a file that is in memory."""

    def __init__(self, file: CheckpointFile) -> None:
        self._file = file


class Following(Checkpoints):
    """`mpy6a.checkpoint.child.Checkpoints` over files of the world."""

    def __init__(self, files: Files, directory: str, disk: Disk) -> None:
        self.settled = True
        self._directory = directory
        self._file = disk.open(write=True)
        header = self._file.header()
        self._files: Any = files  # the shipped class names the files of the machine
        self._follower = LogFollower(files, directory, 1 if header is None else header.next_index)
        self.state = load_state(self._file, self._follower.pipe, self._follower.log)
        self._writer = CheckpointWriter(self._file, self.state, self._records, self._follower.log)

    def room(self, pages: int | None) -> None:
        """So many pages more than there are have room; None: as many as are wanted."""
        connection = self._file.connection()
        most = 1 << 30 if pages is None else int(connection.pragma("page_count")) + pages
        connection.pragma("max_page_count", most)


    def close(self) -> None:
        """A process's end leaves nothing behind: here its parts name each other."""
        super().close()
        vars(self).clear()


class Child:
    """As `mpy6a.checkpoint.driver.Checkpointer`, and the child that it starts: one step takes its time, is then
    committed at once, and told some time later."""

    def __init__(self, world: World, directory: str) -> None:
        self.full = False
        self.slow_ms = 0  # a step takes up to so much longer
        self.pages: int | None = None  # that the disk still has for it
        self.kill_at_commit = False  # the next one is never told
        self.disk = Disk()
        self._world = world
        self._directory = directory
        self._chance = Random(world.seed ^ 0xC0FFEE)
        self._checkpoints: Following | None = None
        self._wanted = 0
        self._said: list[Done | None] = []
        self._life = 0
        self._runs = False
        self._ended = False
        self._idle_from_ms = 0
        self._say_ms = 0  # what is said comes in its order

    # ------------------------------------------------------------------ the pipe's end

    @property
    def busy(self) -> bool:
        """One is asked for and not committed."""
        return self._wanted > 0

    def ask(self, index: int) -> None:
        """Have one written that holds everything below `index`."""
        self._wanted = index
        self.full = False
        if self._ended:
            return  # nobody reads it: `receive` hears of that, and starts another
        if not self._runs:
            self._start()
        self._later(self._begin)

    def receive(self) -> Sequence[Done]:
        """What was committed, and told, since the last call."""
        told, self._said = self._said, []
        done: list[Done] = []
        for one in told:
            if one is None:
                self._wanted, self.full = 0, True
                continue
            done.append(one)
            if one.index >= self._wanted:
                self._wanted = 0
        if self._ended:
            self._ended = False
            if self._wanted:
                self._world.note("checkpoint", "writer started again")
                self._start()
                self._later(self._begin)
        return done

    @property
    def spoke(self) -> bool:
        """Whether `receive` has something to hear."""
        return bool(self._said) or self._ended

    # ------------------------------------------------------------------ life

    def kill(self) -> None:
        """As by kill -9: what was committed stays, and may never be told."""
        if self._runs:
            self._world.note("checkpoint", "writer killed at work" if self.busy else "writer killed at rest")
            self._end()
            self._ended = True
            self._world.pipe.wake()

    def die_with_parent(self) -> None:
        """The pipe is gone, and whatever it had heard."""
        self._end()
        self._ended = False
        self._wanted = 0
        self.full = False
        self._said.clear()
        self.disk.let_go()

    def _start(self) -> None:
        self._runs = True
        self._life += 1

    def _end(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()
        self._checkpoints = None
        self._life += 1
        self._runs = False

    # ------------------------------------------------------------------ steps

    def _wait_ms(self) -> int:
        wait_ms = self._chance.choice((0, 1, 4, 30))
        if self.slow_ms and not self._world.calm:
            wait_ms += self._chance.randrange(self.slow_ms)
        return wait_ms

    def _later(self, call: Callable[[int], None]) -> None:
        self._world.agenda.at(self._world.agenda.now_ms + self._wait_ms(), call, self._life)

    def _tell(self, done: Done | None) -> None:
        self._say_ms = max(self._say_ms, self._world.agenda.now_ms + self._wait_ms())
        self._world.agenda.at(self._say_ms, self._say, self._life, done)

    def _begin(self, life: int) -> None:
        if life != self._life or not self._wanted:
            return
        world = self._world
        try:
            if self._checkpoints is None:
                world.note("checkpoint", "writer opened")
                self._checkpoints = Following(world.files, self._directory, self.disk)
            checkpoints = self._checkpoints
            checkpoints.room(self.pages)
            reached = checkpoints.go(self._wanted)
        except DiskFull:
            world.note("checkpoint", "no room")
            if self._checkpoints is not None:
                self._checkpoints.close()
                self._checkpoints = None
            self._tell(None)
            return
        except DamagedLog as problem:
            raise Violation("checkpoint", f"the writer says that something is damaged: {problem}") from problem
        world.note("checkpoint", "committed" if reached else "committed in part")
        if self.kill_at_commit and not world.calm:
            self.kill_at_commit = False
            world.note("checkpoint", "committed and not told")
            self.kill()
            return
        settled = checkpoints.settled and (world.calm or self._chance.random() < 0.9)
        if not settled:
            world.note("checkpoint", "a reader stood in the way")
        self._tell(Done(checkpoints.state.next_index, checkpoints.position, 1, settled))
        self._idle_from_ms = world.agenda.now_ms
        if reached:
            world.agenda.at(world.agenda.now_ms + limits.CHECKPOINT_REST_MS, self._rest, self._life)
        else:
            self._later(self._begin)

    def _say(self, life: int, done: Done | None) -> None:
        if life == self._life:
            self._said.append(done)
            self._world.pipe.wake()

    def _rest(self, life: int) -> None:
        """Nobody asks for anything: it ends."""
        idle_ms = self._world.agenda.now_ms - self._idle_from_ms
        if life == self._life and not self.busy and not self._said and idle_ms >= limits.CHECKPOINT_REST_MS:
            self._world.note("checkpoint", "writer rested")
            self._end()
