"""What the agent is told about the kinds it runs, and what it asks of its driver.

Plain values, no behaviour but names. The agent (`sidecar.agent`) returns effects; `sidecar.runner` carries
them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from mpy6a import limits
from mpy6a.errors import Mpy6aError
from mpy6a.messages import Ending, RepeatPart, SessionEpoch
from mpy6a.model import SessionId

Handler = Literal["attached", "python", "http", "exec"]
CALLED: Final[frozenset[Handler]] = frozenset({"http", "exec"})  # by the sidecar itself; the others by services


class RunKey(NamedTuple):
    """One run of a handler: a session in one epoch. There is at most one of it at a time in this process."""

    session: SessionId
    epoch: int

    @property
    def pipe(self) -> int:
        return self.session.pipe

    @property
    def session_epoch(self) -> SessionEpoch:
        return SessionEpoch(self.session.term, self.session.index, self.epoch)

    @classmethod
    def of(cls, pipe: int, held: SessionEpoch | Ending | RepeatPart) -> RunKey:
        """The run that a message from, or about, this pipe names."""
        return cls(SessionId(pipe, held.term, held.index), held.epoch)


@dataclass(frozen=True, slots=True)
class KindSetup:
    """One kind that this sidecar runs: `attached` and `python` kinds by services that said SERVE."""

    id: int
    name: str
    handler: Handler
    concurrency: int
    timeout_ms: int = 30_000


@dataclass(frozen=True, slots=True)
class AgentSetup:
    """What an agent needs to know for its whole life. `incarnation` is 16 random bytes; `links` counts the
    pipes."""

    name: str
    incarnation: bytes
    links: int
    kinds: tuple[KindSetup, ...] = ()
    credit_bytes: int = limits.CREDIT_BYTES


@dataclass(frozen=True, slots=True)
class SendService:
    """Send to one connection of the service's ROUTER. `pushes` are the runs that begin by it: if it cannot be
    delivered, tell `Agent.undelivered`."""

    identity: bytes
    payload: bytes
    pushes: tuple[RunKey, ...] = ()


@dataclass(frozen=True, slots=True)
class SendPipe:
    """Send over the DEALER of that link. If it would block, give it back with `Agent.unsent`."""

    link: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class StartRun:
    """Start the http or exec handler of the kind; its end comes back by `Agent.finished`. `repeat` is whole."""

    key: RunKey
    kind: KindSetup
    repeat: RepeatPart


@dataclass(frozen=True, slots=True)
class StopRun:
    """End the http or exec handler of this run at once: it is fenced off (`code`), nothing it says counts any
    more."""

    key: RunKey
    code: int


@dataclass(frozen=True, slots=True)
class Wrote:
    """The verdict on an operation of `Agent.write`: None is done and durable."""

    token: int
    error: Mpy6aError | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The pipe has answered the ending of this run; None: it was the one that counted."""

    key: RunKey
    error: Mpy6aError | None


@dataclass(frozen=True, slots=True)
class Told:
    """Something for the log of the process: the message is a constant, the facts are fields."""

    level: Literal["info", "warning", "error"]
    message: str
    facts: dict[str, object] = field(default_factory=dict)


Effect = SendService | SendPipe | StartRun | StopRun | Wrote | Ended | Told
