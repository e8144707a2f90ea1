"""docs/DELIVERY.md through real processes: a breaker opens, charges nobody, and closes by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

from mpy6a.model import Op, Verb
from tests.e2e.live import Live, Peer, environment
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e

DEADLINE_S: Final = 30.0
SESSIONS: Final = 12
# B is there when the file `up` is: a program for each push, in the directory of the routes.
ROUTES: Final = """\
kinds:
  work:
    id: 1
    sidecars: [users]
    handler: {exec: [/bin/sh, -c, "test -e up || { echo B is away >&2; exit 1; }"]}
    repeat: {delay: 0s, backoff: 50ms..200ms, breaker: 3, concurrency: 4}
  other: {id: 2, sidecars: [users], handler: {attached: true}}
"""


def _facts(*argv: str, at: Path) -> Any:
    found = subprocess.run(
        [sys.executable, "-m", "mpy6a", *argv, "--json"], cwd=at, env=environment(), capture_output=True, text=True,
        timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    return json.loads(found.stdout)


def _await_kind(place: Live, **wanted: object) -> dict[str, Any]:
    """Until the kind `work` is so; each question starts a process: that is pause enough."""
    give_up_s = time.monotonic() + DEADLINE_S
    while True:
        [kind] = [one for one in _facts("kinds", "list", at=place.path)["kinds"] if one["name"] == "work"]
        if all(kind[name] == value for name, value in wanted.items()):
            return dict(kind)
        assert time.monotonic() < give_up_s, f"{kind}, and not {wanted}"


def test_an_outage_opens_the_breaker_charges_nobody_and_is_over_by_itself(
    short_tmp: Path, free_port: FreePorts, processes: Processes
) -> None:
    """The failures that open it are charged, those after them are not; when B is back everything finishes."""
    place = Live(short_tmp, free_port, processes)
    (short_tmp / "routes.yaml").write_text(ROUTES)
    place.pipe, place.sidecar = place.start_pipe(), place.start_sidecar()
    with Peer(place.listen) as owner:
        owner.hello()
        for request in range(1, SESSIONS + 1):
            session = owner.new(request)
            owner.batch(Op(Verb.STORE, session.index, session.term, 1, 1, 0), mark=request + 1)
        _await_kind(place, breaker="open", why="BREAKER_OPEN", at_a_time=1)
        give_up_s = time.monotonic() + DEADLINE_S
        while True:  # some are tried, one by one
            shown = [
                _facts("sessions", "show", one["id"], at=place.path)
                for one in _facts("sessions", "list", at=place.path)["sessions"]
            ]
            attempts = [attempt for one in shown for attempt in one["attempts"]]
            if sum(not attempt["charged"] for attempt in attempts) >= 3:
                break
            assert time.monotonic() < give_up_s, attempts
        assert len(shown) == SESSIONS
        charged = sum(attempt["charged"] for attempt in attempts)
        assert 3 <= charged <= 2 + 4, "those that open it, and what failed in the same moment: four run at a time"
        assert sum(one["charges"] for one in shown) == charged
        assert {attempt["message"].strip() for attempt in attempts if attempt["outcome"] == "fail"} == {
            "B is away"
        }
        (short_tmp / "up").touch()
        _await_kind(place, stored=0, repeating=0, parked=0, breaker="closed")
