"""A pipe's place for tests with real processes: its config, its data and doors in one directory, and its starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import mpy6a
from mpy6a.files import OsFiles
from mpy6a.log.directory import list_log, read_segment_header, segment_path
from mpy6a.log.recovery import find_tail
from tests.processes import Processes

DRIVER: Final = Path(__file__).with_name("driver.py")
WRITER: Final = Path(__file__).with_name("writer.py")
START_TIMEOUT_S: Final = 30.0  # a start takes 0.5 s; a busy machine gets the rest
RECORD_BYTES_MAX: Final = 4096  # small, so that a record over it costs little

_CONFIG: Final = """\
pipe: {pipe}
data: {data}
listen: [{listen}]
admin: {admin}
sidecars: {{nobody: tcp://127.0.0.1:{nobody}}}
routes:
  kinds:
    one: {{id: 1, sidecars: [nobody], handler: {{attached: true}}, repeat: {{idle: 24h}}}}
    two: {{id: 2, sidecars: [nobody], handler: {{attached: true}}, repeat: {{idle: 24h}}}}
log: {{fsync: {fsync}, segment: 16MiB, checkpoint: 1MiB, keep: 64GiB}}
limits: {{record: 4KiB}}
lease: 10m
"""


def environment() -> dict[str, str]:
    """What a child needs to import the same package as this process, wherever it is."""
    package = Path(mpy6a.__file__).resolve().parent.parent
    return os.environ | {"PYTHONPATH": str(package)}


class Place:
    """One pipe's directory. `listen` and `admin` are its doors; every start appends to `pipe.log`."""

    def __init__(
        self,
        path: Path,
        port: int,
        nobody: int,
        processes: Processes,
        *,
        name: str = "pipe",
        pipe: int = 1,
        data: Path | None = None,
        fsync: str = "always",
        listen: str = "",
        admin: str = "",
    ) -> None:
        self.path = path
        self.data = data or path / f"{name}-data"
        self.listen = listen or f"tcp://127.0.0.1:{port}"
        self.admin = admin or f"ipc://{path / name}.sock"
        self.config = path / f"{name}.yaml"
        self.log = path / f"{name}.log"
        self.processes = processes
        text = _CONFIG.format(
            pipe=pipe, data=self.data, listen=self.listen, admin=self.admin, nobody=nobody, fsync=fsync
        )
        self.config.write_text(text, encoding="utf-8")

    def start(self, fail_point: str = "", before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start the pipe; with a fail point (see driver.py) over files that fail. `before`: argv to run it under."""
        argv = [sys.executable, "-m", "mpy6a", "serve", str(self.config)]
        if fail_point:
            argv = [sys.executable, str(DRIVER), fail_point, "serve", str(self.config)]
        with self.log.open("ab") as log:
            return self.processes.start([*before, *argv], cwd=self.path, env=environment(), stdout=log, stderr=log)

    def refusal(self) -> tuple[int, str]:
        """Start a pipe that is expected to give up: its exit code and what it said."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        code = self.start().wait(START_TIMEOUT_S)
        return code, self.said(begin)

    def said(self, begin: int = 0) -> str:
        """What the pipes of this place wrote to stderr, from a byte on."""
        return self.log.read_bytes()[begin:].decode()

    def torn_frames(self) -> int:
        """Frames, behind the end of the log's chain, that the next start will cut. The pipe has to be down."""
        files, directory = OsFiles(), str(self.data)
        number = list_log(files, directory).segments[-1]
        header = read_segment_header(files, directory, None, number)
        file = files.open(segment_path(directory, number), write=False)
        try:
            return find_tail(file, header).behind.frames
        finally:
            file.close()
