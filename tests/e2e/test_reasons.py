"""Every session that is not finished is being worked on, or waits for a reason that the pipe names, by processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from mpy6a.messages import Goodbye, Heartbeat, Push, Serve
from mpy6a.model import BY_POLICY, Op, SessionId, Verb
from tests.e2e.live import KIND, START_S, Live, Peer, environment
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e

OTHER: Final = 2  # the kind that is paused
DEADLINE_S: Final = 60.0  # some questions, each a process of its own, on a machine that is busy with others
COMMAND_S: Final = 60.0


def _mpy6a(*argv: str, at: Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", "mpy6a", *argv], cwd=at, env=environment(), capture_output=True, text=True,
        timeout=COMMAND_S, check=True,
    ).stdout  # fmt: skip


def _reasons(place: Live) -> dict[str, str]:
    """Of every live session, as an operator reads them."""
    listed = json.loads(_mpy6a("sessions", "list", "--json", at=place.path))
    return {one["id"]: one["why"] for one in listed["sessions"]}


def _await_reasons(place: Live, wanted: dict[str, str], *alive: Peer) -> None:
    """Each question starts a process: that is pause enough, and on a busy machine as long as a lease."""
    give_up_s = time.monotonic() + DEADLINE_S
    while True:
        for peer in alive:
            peer.say(Heartbeat(), pipe=0)
        found = _reasons(place)
        if found == wanted:
            return
        assert time.monotonic() < give_up_s, f"{found}, and not {wanted}"


def _stored(owner: Peer, request: int, kind: int = KIND, delay_ms: int = BY_POLICY) -> SessionId:
    session = owner.new(request, kind=kind)
    ack = owner.batch(Op(Verb.STORE, session.index, session.term, 1, 1, delay_ms), mark=request + 1)
    assert ack.results == ()
    return session


def _pushed(service: Peer) -> SessionId:
    """The session that the service is handed next; it goes on working at it."""
    while not isinstance(push := service.receive(), Push):
        continue
    (part,) = push.sessions
    return SessionId(1, part.term, part.index)


def test_every_session_is_worked_on_or_waits_for_a_reason_that_has_a_name(
    short_tmp: Path, free_port: FreePorts, processes: Processes
) -> None:
    """One in each situation, while the pipe is alone, then with a sidecar, then with a service, then without its route;
    and at last there is none that is not finished, but for those that an operator has to decide on."""
    place = Live(short_tmp, free_port, processes)
    place.pipe = place.start_pipe()
    with Peer(place.listen) as owner:
        owner.hello()
        opened = owner.new(1)
        waits = _stored(owner, 2)
        later = _stored(owner, 3, delay_ms=3_600_000)
        paused = _stored(owner, 4, kind=OTHER, delay_ms=0)
        parked = _stored(owner, 5)
        _mpy6a("kinds", "pause", "other", "--reason", "its service is being repaired", at=place.path)
        _mpy6a("sessions", "park", str(parked), "--reason", "looked at by hand", at=place.path)
        still = {str(later): "TIMER", str(paused): "KIND_PAUSED", str(parked): "PARKED"}
        _await_reasons(place, still | {str(opened): "OPEN_BY", str(waits): "NO_SIDECAR"}, owner)
        said, todo = _mpy6a("sessions", "why", str(paused), at=place.path).splitlines()
        assert said == f"{paused} (other) waits: its kind is paused: its service is being repaired."
        assert todo == "Say `mpy6a kinds resume other`."
        listed = json.loads(_mpy6a("sessions", "list", "--why", "no_sidecar", "--json", at=place.path))
        assert [one["id"] for one in listed["sessions"]] == [str(waits)]
        assert json.loads(_mpy6a("sessions", "list", "--group-by", "error", "--json", at=place.path)) == {"groups": []}
        kinds = {one["name"]: one for one in json.loads(_mpy6a("kinds", "list", "--json", at=place.path))["kinds"]}
        assert {name: one["why"] for name, one in kinds.items()} == {"work": "NO_SIDECAR", "other": "KIND_PAUSED"}

        place.sidecar = place.start_sidecar()
        _await_reasons(place, still | {str(opened): "OPEN_BY", str(waits): "NO_CREDIT"}, owner)

        with Peer(place.service) as service:
            service.hello(pipes=1)
            service.say(Serve((KIND, OTHER), 1), pipe=0)
            assert _pushed(service) == waits
            owner.say(Goodbye())  # who opened it has gone: it is stored, and due at once
            _await_reasons(place, still | {str(opened): "NO_CREDIT", str(waits): "REPEATING_AT"}, service)
            service.say(Goodbye())  # with the session unfinished: somebody else gets it

    place.pipe.send_signal(signal.SIGTERM)
    assert place.pipe.wait(START_S) == 0
    routes = place.path / "routes.yaml"
    lines = routes.read_text().splitlines()
    routes.write_text("\n".join(line for line in lines if not line.startswith("  other:")))
    place.pipe = place.start_pipe()
    still |= {str(paused): "ORPHAN_KIND"}
    with Peer(place.service) as service:
        service.hello(pipes=1)
        service.say(Serve((KIND,), 4), pipe=0)
        finished: set[SessionId] = set()
        while len(finished) < 2:
            message = service.receive(DEADLINE_S)
            for part in message.sessions if isinstance(message, Push) else ():
                ack = service.batch(Op(Verb.DELETE, part.index, part.term, part.epoch, 1))
                assert ack.results == ()
                finished.add(SessionId(1, part.term, part.index))
        assert finished == {opened, waits}
        _await_reasons(place, still)
