"""Where a sitting lives: a data directory on the disk to be measured, short paths for sockets, config files."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from mpy6a.benchmark.notes import NOTES
from mpy6a.benchmark.processes import Child
from mpy6a.errors import CannotStart
from mpy6a.limits import IPC_PATH_BYTES_MAX

KIND: Final = "bench"
KIND_ID: Final = 1
SIDECAR: Final = "bench"
_PORTS: Final = range(20_000, 32_000)  # below those that the kernel gives to outgoing connections
_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Doors:
    """Addresses of the processes."""

    pipe: str
    push: str
    admin: str
    sidecar: str


class Place:
    """Directories, addresses and children of a sitting; leaving the block ends and removes all of them."""

    def __init__(
        self, disk: Path, fsync: str = "always", checkpoint: str = "64MiB", routes: Sequence[str] = ()
    ) -> None:
        try:
            self.data = Path(tempfile.mkdtemp(prefix="mpy6a-bench-", dir=disk)).resolve()
        except OSError as problem:
            raise CannotStart(f"{disk}: {problem.strerror}; name a directory you may write to, --data DIR") from None
        self._short = Path(tempfile.mkdtemp(prefix="m6b-"))
        self._children: list[Child] = []
        self._fsync = fsync
        self._checkpoint = checkpoint
        self._routes = routes or (route(KIND, KIND_ID),)
        self.notes = self._short / "notes.json"  # of a handler: what it was handed
        self.doors = Doors(
            pipe=f"tcp://127.0.0.1:{free_port()}",
            push=f"tcp://127.0.0.1:{free_port()}",
            admin=f"ipc://{self._short / 'admin.sock'}",
            sidecar=f"ipc://{self._short / 'sidecar.sock'}",
        )

    def __enter__(self) -> Place:
        length = len(os.fsencode(self.doors.sidecar.removeprefix("ipc://")))
        if length > IPC_PATH_BYTES_MAX:
            self.close()
            raise CannotStart(
                f"a socket path of {length} bytes, allowed are {IPC_PATH_BYTES_MAX}: set TMPDIR to a shorter directory"
            )
        (self._short / "routes.yaml").write_text("kinds:\n" + "".join(self._routes))
        (self._short / "pipe.yaml").write_text(
            f"pipe: 1\ndata: {_quoted(self.data / 'data')}\nlisten: ['{self.doors.pipe}']\n"
            f"admin: {_quoted(self.doors.admin)}\nroutes: routes.yaml\n"
            f"sidecars: {{{SIDECAR}: '{self.doors.push}'}}\n"
            f"log: {{fsync: {self._fsync}, checkpoint: {self._checkpoint}}}\n"
        )
        (self._short / "sidecar.yaml").write_text(
            f"name: {SIDECAR}\nlisten: {_quoted(self.doors.sidecar)}\npipes: ['{self.doors.pipe}']\n"
            f"push: '{self.doors.push}'\nroutes: routes.yaml\n"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start_pipe(self) -> Child:
        """`mpy6a serve` on the data directory as it is."""
        return self._start("pipe", "mpy6a", "serve", "pipe.yaml")

    def start_sidecar(self) -> Child:
        """`mpy6a-sidecar` beside it."""
        check_sidecar()
        return self._start("sidecar", "sidecar", "sidecar.yaml")

    def start_handler(self, module: str, *arguments: str) -> Child:
        """A process that handlers run in, `python -m module`; it writes its notes to `notes` when it ends."""
        return self._start("handler", module, *arguments)

    def end_children(self) -> None:
        """The last one started first."""
        while self._children:
            self._children.pop().end()

    def empty(self) -> None:
        """Removes what the pipe wrote; the next one begins anew."""
        shutil.rmtree(self.data / "data", ignore_errors=True)

    def close(self) -> None:
        """Ends the children and removes the directories."""
        try:
            self.end_children()
        finally:
            shutil.rmtree(self._short, ignore_errors=True)
            shutil.rmtree(self.data, ignore_errors=True)

    def _start(self, name: str, *arguments: str) -> Child:
        path = os.pathsep.join(found for found in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if found)
        # The interpreter and the checkout or installation that runs the benchmark, whatever else is on the machine.
        child = Child(
            name,
            [sys.executable, "-m", *arguments],
            self._short / f"{name}.log",
            os.environ | {"PYTHONPATH": path, NOTES: str(self.notes)},
        )
        self._children.append(child)
        return child


def route(name: str, number: int, handler: str = "attached: true", repeat: str = "") -> str:
    """One kind of routes.yaml."""
    kind = f"  {name}:\n    id: {number}\n    sidecars: [{SIDECAR}]\n    handler: {{{handler}}}\n"
    return kind + (f"    repeat: {{{repeat}}}\n" if repeat else "")


def check_sidecar() -> None:
    """Raises CannotStart if this installation has no sidecar that can be started."""
    try:
        found = importlib.util.find_spec("sidecar.__main__")
    except ImportError:
        found = None
    if found is None:
        raise CannotStart(
            "--through sidecar: this installation has no `python -m sidecar`; install mpy6a whole, "
            "or measure --through direct"
        )
    import sidecar

    if not getattr(sidecar, "MPY6A", False):
        raise CannotStart(
            "--through sidecar: the package `sidecar` found here is another project's; remove it from this environment"
        )


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise CannotStart("no free TCP port between 20000 and 32000: stop what listens there")


def _quoted(text: object) -> str:
    """A YAML string that holds whatever a path may hold."""
    return "'" + str(text).replace("'", "''") + "'"
