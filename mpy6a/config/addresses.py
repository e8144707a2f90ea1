"""Addresses and paths of the configuration, as validators: tcp://, ipc://, http:// and files.

Relative paths, also inside `ipc://`, are relative to the directory of the file they stand in, which the
validation context carries as a `Base`. An ipc path that the kernel would cut is refused with a shorter one to
take instead.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urljoin, urlsplit

from pydantic_core.core_schema import ValidationInfo

from mpy6a import limits
from mpy6a.config.problems import one_of
from mpy6a.config.schema import PlainValidator
from mpy6a.config.values import refuse

PATH_BYTES_MAX: Final = 4_096  # PATH_MAX of Linux
URL_MAX: Final = 2_048  # characters; many servers take no longer one

_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*")
_TCP: Final = re.compile(r"tcp://(?P<host>\*|\[[0-9A-Fa-f:.%a-z]{2,64}\]|[A-Za-z0-9_.-]{1,253}):(?P<port>[0-9]{1,5})")
_URL: Final = re.compile(rf"[!-~]{{1,{URL_MAX}}}")
_EXAMPLES: Final = {"tcp": "tcp://HOST:PORT (tcp://127.0.0.1:7400)", "ipc": "ipc://PATH (ipc://./users.sock)"}


@dataclass(frozen=True, slots=True)
class Base:
    """Where relative paths of the file begin; absolute."""

    directory: Path


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where a process listens for HTTP; port 0: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ZmqAddress:
    """A ZeroMQ address of these transports; one that is bound may have the host `*` or port 0."""

    transports: tuple[str, ...] = ("tcp", "ipc")
    bound: bool = False

    def __call__(self, value: object, info: ValidationInfo) -> str:
        allowed = one_of(_EXAMPLES[transport] for transport in self.transports)
        if not isinstance(value, str):
            refuse(allowed)
        if value.startswith("ipc://") and "ipc" in self.transports:
            return ipc_address(value, _base(info))
        if "tcp" not in self.transports or (found := _TCP.fullmatch(value)) is None or not _host_fits(found["host"]):
            refuse(allowed)
        lowest = 0 if self.bound else 1
        if not lowest <= int(found["port"]) <= 65_535:
            refuse(f"a port from {lowest} to 65535")
        if found["host"] == "*" and not self.bound:
            refuse("the host to dial: * only makes sense where a process listens")
        return value


def ipc_address(value: str, directory: Path) -> str:
    """`ipc://` and an absolute path of at most limits.IPC_PATH_BYTES_MAX bytes."""
    text = value.removeprefix("ipc://")
    if text[:1] in ("@", "*"):
        refuse("ipc:// with the path of a socket file, whose mode says who may connect")
    full = str(_absolute(text, directory, _EXAMPLES["ipc"]))
    length = len(os.fsencode(full))
    if length > limits.IPC_PATH_BYTES_MAX:
        refuse(
            f"a socket path of at most {limits.IPC_PATH_BYTES_MAX} bytes (written out this one has "
            f"{length}), such as ipc://{_shorter(full)}"
        )
    return f"ipc://{full}"


def _shorter(full: str) -> str:
    """A path for the same socket that fits."""
    name = os.path.basename(full)
    return f"/run/mpy6a/{name}" if len(os.fsencode(name)) <= 64 else "/run/mpy6a/mpy6a.sock"


def _absolute(text: str, directory: Path, allowed: str) -> Path:
    if not text or any(ord(character) < 32 for character in text):
        refuse(allowed)
    if text.startswith("~"):
        refuse("a path written out: ~ is not expanded")
    full = directory / text
    if len(os.fsencode(full)) > PATH_BYTES_MAX:
        refuse(f"a path of at most {PATH_BYTES_MAX} bytes")
    return full


def file_path(value: object, info: ValidationInfo) -> Path:
    """An absolute path; whether there is anything is not looked at."""
    if not isinstance(value, str):
        refuse("a path; a relative one begins at the directory of this file")
    return _absolute(value, _base(info), "a path; a relative one begins at the directory of this file")


def _http_url(value: object) -> str:
    allowed = "http://HOST:PORT/PATH, such as http://127.0.0.1:8000/finish"
    if not isinstance(value, str) or not _URL.fullmatch(value):
        refuse(allowed)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # a broken [IPv6] or port
        refuse(allowed, "a broken URL")  # not shown: there may be a password in it
    if "@" in parts.netloc:
        refuse("a URL without user and password: it is shown in logs", "a URL with credentials")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.fragment:
        refuse(allowed)
    return value


def _health(value: object) -> str:
    if isinstance(value, str) and value.startswith("/") and not value.startswith("//") and _URL.fullmatch(value):
        return value
    refuse("the path of a URL on the handler's host, such as /health")


def health_url(handler_url: str, health: str) -> str:
    """The URL that answers whether the handler's service is up."""
    return urljoin(handler_url, health)


def _http_listen(value: object) -> HttpAddress:
    allowed = "http://HOST:PORT without a path, such as http://127.0.0.1:0 (0: any free port)"
    if not isinstance(value, str) or not _URL.fullmatch(value):
        refuse(allowed)
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:  # a broken [IPv6] or port
        refuse(allowed)
    if parts.scheme != "http" or not host or port is None or value != str(HttpAddress(host, port)):
        refuse(allowed)
    return HttpAddress(host, port)


def _host_fits(host: str) -> bool:
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        return True
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return False
        return True
    return host == "*" or _HOST_NAME.fullmatch(host) is not None


def _base(info: ValidationInfo) -> Path:
    assert isinstance(info.context, Base), "the section was validated without its base directory"
    return info.context.directory


Dialed = Annotated[str, PlainValidator(ZmqAddress(), info=True)]
Bound = Annotated[str, PlainValidator(ZmqAddress(bound=True), info=True)]
IpcBound = Annotated[str, PlainValidator(ZmqAddress(("ipc",), bound=True), info=True)]
FilePath = Annotated[Path, PlainValidator(file_path, info=True)]
HttpUrl = Annotated[str, PlainValidator(_http_url)]
HealthPath = Annotated[str, PlainValidator(_health)]
HttpListen = Annotated[HttpAddress, PlainValidator(_http_listen)]
