"""Finds the door that a client takes: argument > $MPY6A_SIDECAR > ./.mpy6a/sidecar.sock >
/run/mpy6a/sidecar.sock."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mpy6a import errors, limits

VARIABLE: Final = "MPY6A_SIDECAR"
LOCAL: Final = Path(".mpy6a/sidecar.sock")
SYSTEM: Final = Path("/run/mpy6a/sidecar.sock")


def find(door: str | None = None, *, environ: Mapping[str, str] | None = None) -> str:
    """The ZeroMQ address of the door. Does no I/O beyond looking whether ./.mpy6a is there.

    Raises BadRequest for an address of no known form, and for an ipc path that the kernel would not take.
    """
    environ = os.environ if environ is None else environ
    told = door or environ.get(VARIABLE)
    if told:
        return address(told)
    # The directory is enough: a service may start before its sidecar.
    return address(str(LOCAL if LOCAL.parent.is_dir() else SYSTEM))


def address(text: str) -> str:
    """A ZeroMQ address for `tcp://host:port`, `ipc://path` or a plain path. Paths are made absolute, so
    that a later chdir does not move the door; one that is too long for that stays as it was told."""
    if text.startswith("tcp://"):
        host, _, port = text.removeprefix("tcp://").rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise errors.BadRequest(f"{text!r} is no address; one looks like tcp://127.0.0.1:7400")
        return text
    path = text.removeprefix("ipc://")
    scheme, separator, _ = path.partition("://")
    if separator:
        raise errors.BadRequest(f"{text!r}: {scheme}:// is not spoken here; use a path, ipc://path or tcp://host:port")
    if not path:
        raise errors.BadRequest(f"{text!r} names no path; one looks like ipc://./.mpy6a/sidecar.sock")
    if path.startswith("@"):  # Linux's abstract sockets have no file and no mode: anybody may connect
        raise errors.BadRequest(f"{text!r}: abstract sockets are not supported; use a path")
    for candidate in (os.path.abspath(path), path):
        if len(os.fsencode(candidate)) <= limits.IPC_PATH_BYTES_MAX:
            return "ipc://" + candidate
    raise errors.BadRequest(
        f"the ipc path {path!r} has {len(os.fsencode(path))} bytes; the system takes at most "
        f"{limits.IPC_PATH_BYTES_MAX}: use a shorter one, {SYSTEM} for example, or a relative path"
    )
