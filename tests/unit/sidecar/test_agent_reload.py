"""Other kinds while the sidecar runs: credit comes and goes with them, and nothing that runs is touched."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mpy6a.config import load_sidecar
from mpy6a.errors import ConfigError
from mpy6a.messages import Accepted, Hello, KindCredit, Serve
from mpy6a.model import Verb
from sidecar import reloading
from sidecar.values import KindSetup
from tests.unit.sidecar.desk import ANN, ATTACHED, BOB, HTTP, KINDS, Desk, part
from tests.unit.sidecar.test_agent_push import endings, last_credit, pushed

SOLO = KindSetup(9, "new-kind", "http", 5)


def credit(desk: Desk) -> dict[int, KindCredit]:
    said = desk.to_pipe(Accepted)[-1]
    assert isinstance(said, Accepted)
    return {one.kind: one for one in said.credit}


def test_credit_is_granted_and_taken_back_with_its_kind() -> None:
    """Taken back: told as used up, or the pipe would push what it still has."""
    desk = Desk().dialed().serving()
    desk.flush()
    desk.push(part(1, 1, HTTP))
    desk.flush()
    assert last_credit(desk, HTTP) == 3
    desk.agent.reload([KINDS[0], SOLO], desk.now_ms)
    desk.flush()
    told = credit(desk)
    assert (told[9].sessions, told[ATTACHED].sessions) == (5, 4)
    assert (told[HTTP].sessions, told[HTTP].bytes) == (1, 1)  # what was taken, and no more
    desk.agent.reload(KINDS, desk.now_ms)
    desk.flush()
    told = credit(desk)
    assert (told[HTTP].sessions, told[9].sessions) == (3, 0)


def test_what_runs_goes_on_and_what_waits_is_released() -> None:
    """A run of a kind that is gone ends as any other; it has the timeout that it began with."""
    desk = Desk(kinds=[replace(KINDS[0], timeout_ms=60_000), *KINDS[1:]]).dialed()
    desk.serving(ANN, (ATTACHED,), 1)
    desk.flush()
    desk.push(part(1, 1), part(2, 2), part(3, 3, HTTP))
    desk.flush()
    assert pushed(desk, ANN) == [(1, 2)]
    assert [key.session.index for key in desk.started()] == [3]
    desk.agent.reload([SOLO], desk.now_ms)
    desk.flush()
    assert [(verb, index) for verb, index, _, _ in endings(desk)] == [(Verb.RELEASE, 2)]
    assert desk.stopped() == []
    assert desk.agent.running == 2
    key = desk.agent.handing.runs.all()[-1].key
    desk.agent.finished(key, desk.now_ms, None)
    desk.push(part(4, 4))  # on its way when the credit was taken back
    desk.flush()
    for _ in range(13):
        desk.service(ANN, Hello(name="app"))
        desk.tick(5_000)
    assert desk.agent.running == 0


def test_a_service_that_is_retired_finishes_what_it_has_and_gets_no_more() -> None:
    """Also when it says again that it serves; another one takes its place."""
    desk = Desk().dialed()
    desk.service(ANN, Hello(name="old"), Serve((ATTACHED,), 4))
    desk.flush()
    desk.push(part(1, 1))
    desk.flush()
    assert pushed(desk, ANN) == [(1, 2)]
    desk.agent.retire("old")
    desk.service(ANN, Serve((ATTACHED,), 4))
    desk.service(BOB, Hello(name="new"), Serve((ATTACHED,), 4))
    desk.push(part(2, 2))
    desk.flush()
    assert (pushed(desk, ANN), pushed(desk, BOB)) == ([], [(2, 2)])
    [old] = desk.agent.clients.named("old")
    assert len(old.running) == 1


def test_a_kind_that_is_coming_may_be_served_before_it_is_there() -> None:
    """A new process shows that it can serve it; nothing is granted for it before it is taken."""
    desk = Desk().dialed()
    coming = KindSetup(9, "new-kind", "python", 5)
    desk.agent.handing.coming = {9: coming}
    desk.service(ANN, Hello(name="new"), Serve((9,), 4))
    desk.flush()
    [client] = desk.agent.clients.named("new")
    assert client.serves == {9}
    desk.agent.reload([*KINDS, coming], desk.now_ms)
    desk.flush()
    assert credit(desk)[9].sessions == 4
    assert desk.agent.handing.coming == {}


SIDECAR = """\
name: users
listen: ipc://./users.sock
pipes: [tcp://127.0.0.1:7400]
push: tcp://127.0.0.1:7401
drain: 5s
routes: {kinds: {work: {id: 1, sidecars: [users], handler: {attached: true}}}}
"""


def test_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    """All of it at once; bad files with file, line and key; the rest is taken."""
    path = tmp_path / "sidecar.yaml"
    path.write_text(SIDECAR)
    before = load_sidecar(path)

    def read(text: str) -> str:
        path.write_text(text)
        with pytest.raises(ConfigError) as refused:
            asyncio.run(reloading.read(path, before))
        return str(refused.value)

    two = read(SIDECAR.replace("name: users", "name: search").replace("[users]", "[search]").replace("7401", "7402"))
    assert two.splitlines() == [
        f"{path}: name: search needs a restart; the sidecar runs with users",
        f"{path}: push: tcp://127.0.0.1:7402 needs a restart; the sidecar runs with tcp://127.0.0.1:7401",
    ]
    assert f"{path}:5: drain: found" in read(SIDECAR.replace("5s", "5"))
    more = "{more: {id: 2, sidecars: [users], handler: {attached: true}}, work"
    path.write_text(SIDECAR.replace("5s", "6s").replace("{work", more))
    after = asyncio.run(reloading.read(path, before))
    assert after.drain_ms == 6_000
    assert reloading.changes(before, after) == "added more"
    assert reloading.changes(after, before) == "removed more"
    assert reloading.changes(before, before) == "none of the kinds"
