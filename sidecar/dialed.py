"""What pipes say over the connections they dial, and what each dial is answered.

Pure. Greetings, pushes and stops come in; the sidecar hello, Accepted and credit go out over the sidecar's
own connection to that pipe. What an older dial says is dropped and counted. Source: semantics "Pushing".

Whoever reaches the address may dial. What the sidecar trusts is the connection that it made itself: its welcome
told the pipe's incarnation and term, and only a greeting that says the same is answered and stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mpy6a import limits, wire
from mpy6a.errors import Code
from mpy6a.messages import Accepted, Error, Greeting, KindCredit, MessageType, Push, SidecarHello, Stop
from sidecar.dials import Dial, Dials
from sidecar.handing import Handing
from sidecar.links import Link, link_to
from sidecar.values import AgentSetup, Effect, Told


class Dialed:
    """The dials of all pipes to this sidecar."""

    def __init__(self, setup: AgentSetup, links: Sequence[Link], handing: Handing, counts: Counter[str]) -> None:
        self.told: list[Effect] = []
        self._setup = setup
        self._links = links
        self._handing = handing
        self._counts = counts
        self._dials = Dials()
        self._told_changes = -1  # `Handing.changes` when all dials were answered; -1: they are not

    def greeted(self, pipe: int, incarnation: bytes, greeting: Greeting) -> None:
        """Somebody dialed: once it is known to be the pipe, what it said on older dials no longer counts."""
        if greeting.name not in ("", self._setup.name):  # a pipe that dials many cannot know who answered
            self._counts["dial_wrong_name"] += 1
            link = link_to(self._links, pipe)
            if link is not None and link.hop == incarnation:
                self._refuse(link, greeting.name)
        elif not pipe or not self._dials.greeted(pipe, incarnation, greeting):
            self._counts["dial_old_greeting"] += 1

    def refused(self, pipe: int, error: Error) -> None:
        """The pipe itself does not know the dial that a hello named: whoever greeted under its name, it did not."""
        if self._dials.refused(pipe, error.number):
            self._counts["dial_refused"] += 1
            self._told_changes = -1

    def pushed(self, pipe: int, incarnation: bytes, push: Push, now_ms: int) -> None:
        """Takes the sessions of a push that is meant for this process, on the newest dial, in their order."""
        if push.target != self._setup.incarnation:
            self._counts["push_other_target"] += 1
            return
        dial = self._dials.named(pipe, push.term, push.dial, incarnation)
        if dial is None:
            self._counts["push_old_dial"] += 1
            return
        bytes_max, records_max = self._session_limits(pipe)
        for part in push.sessions:
            taken = dial.take(part, bytes_max, records_max)
            if isinstance(taken, str):
                self._counts[taken] += 1
            elif taken:
                self._handing.take(pipe, taken, now_ms)

    def stopped(self, pipe: int, stop: Stop, incarnation: bytes | None = None) -> None:
        """Epochs that are no longer this sidecar's. `incarnation`: who says so on a dial; None: the pipe, on our own
        connection to it."""
        if self._dials.named(pipe, stop.term, stop.dial, incarnation) is None:
            self._counts["stop_old_dial"] += 1
        else:
            self._handing.stop(pipe, stop.code, stop.sessions)

    def reconnected(self) -> None:
        """A connection to a pipe is a new one: what was said on the old one may be lost."""
        self._told_changes = -1
        for dial in self._dials.all():
            dial.told_through = -1

    @property
    def settled(self) -> bool:
        """Nothing changed since the dials were answered: no run was taken or ended."""
        return self._told_changes == self._handing.changes

    def answer(self) -> None:
        """Queues the hello of each new dial; of the others, Accepted and credit where they changed."""
        for dial in self._dials.waiting():
            link = link_to(self._links, dial.pipe)
            if link is not None and link.writable and (link.hop, link.term) == (dial.incarnation, dial.term):
                self._dials.stand(dial)
                self._told_changes = -1
                facts: dict[str, object] = {"pipe": dial.pipe, "term": dial.term, "dial": dial.dial}
                self.told.append(Told("info", "a pipe dialed", facts))
        if self._told_changes == self._handing.changes:
            return
        self._told_changes = self._handing.changes
        dials = self._dials.all()
        for dial in dials:
            link = link_to(self._links, dial.pipe)
            if link is None or not link.writable:
                self._told_changes = -1
                continue
            credit = self._handing.credit(dial, len(dials))
            if not dial.answered:
                said = self._hello(dial, credit)
                dial.answered = True
            elif (dial.taken, credit) != (dial.told_through, dial.told_credit):
                said = Accepted(dial.dial, dial.term, dial.taken, credit)
            else:
                continue
            dial.told_through, dial.told_credit = dial.taken, credit
            link.say(wire.encode(said, incarnation=self._setup.incarnation, pipe=dial.pipe))

    def _hello(self, dial: Dial, credit: tuple[KindCredit, ...]) -> SidecarHello | Accepted:
        held = tuple(run.key.session_epoch for run in self._handing.runs.of_pipe(dial.pipe))
        return SidecarHello(dial.dial, dial.term, self._setup.name, held[: limits.HELD_SESSIONS_MAX], credit)

    def _refuse(self, link: Link, meant: str) -> None:
        self.told.append(
            Told(
                "error",
                "a pipe meant another sidecar: check `sidecars:` of its pipe.yaml",
                {"pipe": link.pipe, "meant": meant},
            )
        )
        error = Error(
            Code.BAD_REQUEST,
            f"the sidecar at this address is {self._setup.name!r}, not {meant!r}",
            MessageType.GREETING,
        )
        link.say(wire.encode(error, incarnation=self._setup.incarnation, pipe=link.pipe))

    def _session_limits(self, pipe: int) -> tuple[int, int]:
        return limits.SESSION_BYTES_MAX, limits.SESSION_RECORDS_MAX  # the pipe may have taken it under higher limits
