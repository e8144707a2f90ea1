"""`mpy6a dev HANDLERS.py`: pipe, sidecar and handlers in one terminal, kept running until Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import signal
import site
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

import mpy6a
from mpy6a.commands.dev_children import Child, Children, told
from mpy6a.commands.dev_files import SOCKET, Files
from mpy6a.commands.dev_find import Found, find
from mpy6a.config import load_pipe
from mpy6a.errors import CannotStart, ConfigError
from mpy6a.exits import EXIT_CANNOT_START, EXIT_DAMAGED, EXIT_USAGE

DEFAULT_DATA: Final = Path(".mpy6a")
LOOK_S: Final = 0.5  # between two looks whether HANDLERS.py has changed
STARTING_LOOK_S: Final = 0.05  # between two looks whether everything is up
QUICK_S: Final = 2.0  # a life that ends sooner than this is followed by a pause
PAUSE_S: Final = 0.25  # doubling up to PAUSE_MAX_S
PAUSE_MAX_S: Final = 5.0
QUICK_ENDS_MAX: Final = 4  # so often in a row with "cannot start", and it is said so and left
GRACE_S: Final = 10.0  # between SIGTERM and SIGKILL


@click.command()
@click.argument("handlers", metavar="HANDLERS.py", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), default=DEFAULT_DATA, show_default=True, help="where everything is kept"
)
@click.option("--port-base", type=click.IntRange(1, 65_534), help="use this port and the next one [free ones]")
def dev(handlers: Path, data: Path, port_base: int | None) -> int:
    """Run a pipe, a sidecar and the functions of HANDLERS.py that are marked with @mpy6a.handler, until Ctrl-C."""
    environment = child_environment(os.environ)
    found = find(handlers, environment)
    files = Files(data)
    files.prepare()
    with _locked(files):
        files.write_routes(handlers.absolute(), found)
        files.write_processes(handlers.absolute(), port_base)
        return Dev(files, handlers, found, environment).run()


def child_environment(mine: Mapping[str, str]) -> dict[str, str]:
    """The environment of the processes: output unbuffered, nothing imported from the current directory by chance (a
    queue.py of the user's would be), no bytecode that is taken for that of a file changed in the same second."""
    environment = dict(mine) | {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    root = str(Path(mpy6a.__file__ or "").parents[1])
    if root not in (*site.getsitepackages(), site.getusersitepackages()):  # a checkout: found there, as this one is
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, mine.get("PYTHONPATH")]))
    return environment


class _locked:
    """One `mpy6a dev` a directory. Raises CannotStart."""

    def __init__(self, files: Files) -> None:
        self._path = files.directory / "dev.lock"

    def __enter__(self) -> None:
        try:
            self._file = open(self._path, "a+")
        except OSError as problem:
            raise CannotStart(f"{self._path}: {problem.strerror}; name another directory with --data") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            pid = self._file.read(20).strip()
            self._file.close()
            raise CannotStart(
                f"{self._path.parent}: another `mpy6a dev` (pid {pid}) runs there; stop it, or give another --data"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Dev:
    """Keeps both processes running. `run` returns the exit code."""

    def __init__(self, files: Files, handlers: Path, found: tuple[Found, ...], environment: dict[str, str]) -> None:
        self._files = files
        self._handlers = handlers
        self._found = found
        self._environment = environment
        self._seen = _stamp(handlers)
        self._children = Children(environment, _say)
        python = (sys.executable, "-m")
        self._pipe = Child("pipe", (*python, "mpy6a", "serve", str(files.pipe)))
        self._sidecar = Child("sidecar", (*python, "sidecar", str(files.sidecar)))
        self._both = (self._pipe, self._sidecar)
        self._port = int(load_pipe(files.pipe).listen[0].rpartition(":")[2])
        self._signals = 0
        self._code: int | None = None  # set: everything ends
        self._asked_pipe = False
        self._kill_at_s = 0.0
        self._introduced = False

    def run(self) -> int:
        """Until SIGTERM, Ctrl-C, or a process that cannot start. Both processes have ended when it returns."""
        wake_read, wake_write = socket.socketpair()
        wake_write.setblocking(False)
        self._children.watch(wake_read.fileno())
        signal.set_wakeup_fd(wake_write.fileno())
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for child in self._both:
                self._children.start(child, time.monotonic())
            while self._code is None or any(child.process for child in self._both):
                self._turn()
            _say("dev", f"stopped; what is not finished is kept in {self._files.directory}")
            return self._code
        finally:
            for child in self._both:  # by an error of ours only: nothing that was started is left behind
                child.kill()
                if child.process is not None:
                    child.process.wait()
            self._children.close()
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            wake_read.close()
            wake_write.close()

    def _signalled(self, *_: object) -> None:
        self._signals += 1

    def _turn(self) -> None:
        ended = self._children.turn(LOOK_S if self._introduced else STARTING_LOOK_S)
        now_s = time.monotonic()
        for child, code in ended:
            self._ended(child, code, now_s)
        if self._signals and self._code is None:
            self._stop(0)
        if self._code is not None:
            self._go_on_stopping(now_s)
            return
        for child in self._both:
            if child.start_at_s is not None and now_s >= child.start_at_s:
                self._children.start(child, now_s)
                _say("dev", f"the {child.name} is started again as pid {child.pid}")
        if not self._introduced and all(child.process for child in self._both) and self._is_up():
            self._introduced = True
            self._introduce()
        if _stamp(self._handlers) not in (self._seen, None):
            self._reload(now_s)

    # ------------------------------------------------------------------ lives

    def _ended(self, child: Child, code: int, now_s: float) -> None:
        if self._code is not None:
            return
        if child.replaced:
            child.start_at_s = now_s
            return
        _say("dev", f"the {child.name} {told(code)}")
        quick = now_s - child.started_s < QUICK_S
        child.quick_ends = child.quick_ends + 1 if quick else 0
        if code in (EXIT_USAGE, EXIT_DAMAGED) or (code == EXIT_CANNOT_START and child.quick_ends >= QUICK_ENDS_MAX):
            self._stop(code)  # it would say the same again
        else:
            pause_s = min(PAUSE_S * 2 ** (child.quick_ends - 1), PAUSE_MAX_S) if quick else 0.0
            child.start_at_s = now_s + pause_s

    def _stop(self, code: int) -> None:
        """First the sidecar, which has something to tell the pipe, then the pipe."""
        self._code = code
        self._kill_at_s = time.monotonic() + GRACE_S
        (self._sidecar if self._sidecar.process else self._pipe).ask_to_stop()
        self._asked_pipe = not self._sidecar.process

    def _go_on_stopping(self, now_s: float) -> None:
        if not self._asked_pipe and self._sidecar.process is None:
            self._asked_pipe = True
            self._kill_at_s = now_s + GRACE_S
            self._pipe.ask_to_stop()
        if now_s >= self._kill_at_s or self._signals > 1:  # a second Ctrl-C: now
            for child in self._both:
                child.kill()

    # ------------------------------------------------------------------ HANDLERS.py

    def _reload(self, now_s: float) -> None:
        self._seen = _stamp(self._handlers)
        try:
            found = find(self._handlers, self._environment)
            changed = self._files.write_routes(self._handlers.absolute(), found)
        except ConfigError as problem:
            _say("dev", f"{problem}; the handlers from before go on running")
            return
        self._found = found
        _say("dev", f"{self._handlers} has changed and is loaded anew: {self._kinds()}")
        for child in self._both if changed else (self._sidecar,):
            child.quick_ends = 0
            if child.process is not None:
                child.replaced = True
                child.ask_to_stop()
            else:
                child.start_at_s = now_s

    def _kinds(self) -> str:
        return ", ".join(f"{kind} → {function}" for kind, function in self._found)

    # ------------------------------------------------------------------ what is said at first

    def _is_up(self) -> bool:
        return _answers(socket.AF_INET, ("127.0.0.1", self._port)) and _answers(socket.AF_UNIX, str(self._files.socket))

    def _introduce(self) -> None:
        data = self._files.directory
        if data.resolve() == DEFAULT_DATA.resolve():
            use = "in this directory mpy6a.Pipe() and mpy6a.AsyncPipe() find the sidecar by themselves"
        else:
            use = f"MPY6A_SIDECAR={data.absolute() / SOCKET} in your program's environment"
        _say("dev", f"{self._handlers}: {self._kinds()}; data in {data}")
        _say("dev", f"use it:   {use}")
        _say("dev", f"look:     mpy6a sessions list --config {self._files.pipe}")
        _say("dev", f"break it: kill -9 {self._pipe.pid} (the pipe): it starts again, nothing is lost. Ctrl-C ends all")


def _say(who: str, line: str) -> None:
    print(f"{who} | {line}", flush=True)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when the file does; None while an editor has taken it away."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _answers(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    """Whether somebody listens there; the file of a socket alone says nothing."""
    with socket.socket(family) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(address) == 0
