"""Reload by real processes: under load, with files that are bad, with kinds that go and come back."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import mpy6a
from mpy6a.errors import Code
from mpy6a.exits import EXIT_FOUND_BAD, EXIT_UNREACHABLE, EXIT_USAGE
from mpy6a.messages import Push, Serve, Welcome
from mpy6a.model import Op, SessionId, Verb
from tests.e2e.live import ANSWER_S, KIND, START_S, Companion, Live, Peer
from tests.e2e.test_serve import mpy6a as command
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e

OTHER: Final = 2
OTHER_LINE: Final = "  other: {id: 2, sidecars: [users], handler: {attached: true}}\n"
GHOST: Final = "ghost: tcp://127.0.0.1:9"  # a sidecar that nobody is
STALL_US_MAX: Final = 5_000  # of one turn


@pytest.fixture
def place(short_tmp: Path, free_port: FreePorts, processes: Processes) -> Live:
    return Live(short_tmp, free_port, processes)


def rewrite(place: Live, name: str, old: str, new: str) -> None:
    path = place.path / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def write_routes(place: Live, concurrency: int) -> None:
    work = f"{{delay: 0s, backoff: 1ms..2ms, concurrency: {concurrency}}}"
    (place.path / "routes.yaml").write_text(
        f"kinds:\n  work: {{id: 1, sidecars: [users], handler: {{attached: true}}, repeat: {work}}}\n{OTHER_LINE}",
        encoding="utf-8",
    )


def await_said(place: Live, name: str, wanted: str, times: int = 1) -> None:
    await_that(lambda: place.said(name).count(wanted) >= times, lambda: f"no {wanted!r} in {place.said(name)}")


def await_that(holds: Callable[[], bool], why: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < give_up_s, why()
        time.sleep(0.01)


def reload(place: Live) -> dict[str, Any]:
    return command("reload", "--json", at=place.path).facts


def stored(owner: Peer, request: int, kind: int) -> SessionId:
    session = owner.new(request, kind=kind)
    ack = owner.batch(Op(Verb.STORE, session.index, session.term, 1, 1, 1), mark=request + 1)
    assert ack.results == ()
    return session


def kinds(place: Live) -> dict[str, dict[str, Any]]:
    return {one["name"] or str(one["kind"]): one for one in place.status()["kinds"]}


def test_what_a_reload_changes_is_told_and_in_the_log(place: Live) -> None:
    """By the command and by SIGHUP; a replay comes to the same, and clients hear of new kinds without asking."""
    pipe = place.start_pipe()
    assert reload(place) == {"taken": True, "changes": [], "more": False}
    rewrite(place, "routes.yaml", "delay: 0s", "delay: 1s")
    with Peer(place.listen) as client:
        client.hello()
        third = OTHER_LINE.replace("other", "third").replace("id: 2", "id: 3")
        rewrite(place, "routes.yaml", OTHER_LINE, third + OTHER_LINE)
        ended = command("reload", at=place.path)
        assert ended.code == 0
        assert ended.out.splitlines()[:2] == ["kind third (3) added", "delay of work 0 -> 1s"]
        assert "send each SIGHUP" in ended.out
        told = client.receive()
        assert isinstance(told, Welcome)
        assert [kind.name for kind in told.kinds] == ["work", "other", "third"]
        client.new(kind=3)
    rewrite(place, "pipe.yaml", "log:", "disk: {low: 1%, very_low: 1%}\nlease: 20s\nlog:")
    pipe.send_signal(signal.SIGHUP)
    await_said(place, "pipe.log", "lease 15s -> 20s")
    assert "disk.low 5% max 1GiB -> 1%" in place.said("pipe.log")
    pipe.terminate()
    assert pipe.wait(START_S) == 0
    frames = command("log", "dump", "data", "--json", at=place.path).out.splitlines()
    assert [json.loads(line)["type"] for line in frames].count("POLICY") == 3
    place.start_pipe()
    assert set(kinds(place)) == {"work", "other", "third"}


def test_bad_files_change_nothing(place: Live) -> None:
    """File, line and key in the answer and in the log; exit 2. What is fine in them is not taken either."""
    pipe = place.start_pipe()
    rewrite(place, "routes.yaml", "id: 2", "id: 1")
    rewrite(place, "pipe.yaml", "log:", "lease: 20s\nlog:")
    for more in (["--admin", place.admin], []):
        ended = command("reload", *more, at=place.path)
        assert ended.code == EXIT_USAGE
        assert "routes.yaml:3: kinds.other.id: found 1" in ended.err
    assert "routes.yaml:3: kinds.other.id: found 1" in place.said("pipe.log")
    pipe.send_signal(signal.SIGHUP)
    await_said(place, "pipe.log", "the files are bad", 2)
    assert set(kinds(place)) == {"work", "other"}
    rewrite(place, "routes.yaml", OTHER_LINE.replace("id: 2", "id: 1"), OTHER_LINE)
    assert reload(place)["changes"] == ["lease 15s -> 20s"]
    rewrite(place, "pipe.yaml", "16MiB", "32MiB")
    rewrite(place, "pipe.yaml", "20s", "25s")
    ended = command("reload", at=place.path)
    assert ended.code == EXIT_FOUND_BAD
    assert "pipe.yaml:8: log.segment: 32MiB needs a restart; the pipe runs with 16MiB" in ended.err
    assert "nothing has changed" in ended.err
    (place.path / "pipe.yaml").unlink()
    assert command("reload", "--admin", place.admin, at=place.path).code == EXIT_USAGE
    assert pipe.poll() is None


def test_a_kind_goes_and_comes_back(place: Live) -> None:
    """Refused while sessions of it live; held as ORPHAN_KIND; back in the routes it goes on; or parked, by the file."""
    place.start_pipe()
    with Peer(place.listen) as owner:
        waiting = stored(owner, 1, OTHER)
        rewrite(place, "routes.yaml", OTHER_LINE, "")
        ended = command("reload", at=place.path)
        assert ended.code == EXIT_FOUND_BAD
        assert "kind other (2) would leave the routes with 1 stored session" in ended.err
        rewrite(place, "routes.yaml", "kinds:", "orphans: hold\nkinds:")
        assert reload(place)["changes"][0] == "kind other removed: 1 stored session would wait as ORPHAN_KIND"
        said = command("sessions", "why", str(waiting), at=place.path).out
        assert "kind 2 is in no route" in said
        ack = owner.batch(Op(Verb.NEW, 2, argument=OTHER), mark=2)
        assert [result.code for result in ack.results] == [Code.UNKNOWN_KIND]
        place.start_sidecar()
        rewrite(place, "routes.yaml", "kinds:\n", "kinds:\n" + OTHER_LINE)
        assert reload(place)["changes"] == ["kind other (2) added: 1 stored session of it go on"]
        with Peer(place.service) as handler:
            handler.hello(pipes=1)
            handler.say(Serve((OTHER,), 4), pipe=0)
            # The sidecar was started without the kind, and refuses it until it reads its routes itself.
            assert handler.error().code == Code.UNKNOWN_KIND
        rewrite(place, "routes.yaml", OTHER_LINE, "")
        rewrite(place, "routes.yaml", "orphans: hold", "orphans: park")
        assert "what is stored would be parked" in reload(place)["changes"][0]
        await_that(lambda: kinds(place)["2"]["parked"] == 1, lambda: kinds(place))
        said = command("sessions", "why", str(waiting), at=place.path).out
        assert "kind 2 is in no route any more" in said


def test_a_reload_under_load_loses_nothing_and_does_nothing_twice(place: Live) -> None:
    """Clients write, handlers finish, sidecars are added and dialed anew: every session is finished exactly once."""
    pipe = place.start_pipe()
    place.start_sidecar()
    sessions = 120
    finished: list[int] = []
    done = asyncio.Event()

    @mpy6a.handler("work")
    async def finish(repeat: mpy6a.RepeatData) -> None:
        [record] = repeat.records
        await repeat.session.delete()
        finished.append(record.json())
        if len(finished) >= sessions:
            done.set()

    async def load() -> None:
        async with mpy6a.AsyncPipe(place.service) as service:
            serving = asyncio.create_task(service.serve(finish, concurrency=8))
            for number in range(sessions):
                session = await service.new("work")
                await session.append(json=number)
                await session.store(after=0)
                if number % 20 == 10:
                    write_routes(place, number)
                    if number == 50:
                        rewrite(place, "pipe.yaml", f"users: {place.push}", f"users: {place.push}, {GHOST}")
                    if number == 90:  # the same process at what is another address for ZeroMQ
                        there = place.push.replace("127.0.0.1", "localhost")
                        rewrite(place, "pipe.yaml", f"users: {place.push}, {GHOST}", f"users: {there}")
                    pipe.send_signal(signal.SIGHUP)
                    await asyncio.to_thread(await_said, place, "pipe.log", '"reloaded', (number + 10) // 20)
            await asyncio.wait_for(done.wait(), 3 * ANSWER_S)
            serving.cancel()
            await asyncio.wait([serving])

    with Companion(place.service):
        asyncio.run(load())
        await_said(place, "pipe.log", f"address of sidecar users {place.push} ->")
    assert sorted(finished) == list(range(sessions))
    await_that(lambda: not place.status()["live"], place.status)
    status = place.status()
    assert status["reload"]["stall_cpu_us_max"] < STALL_US_MAX
    assert [one["connected"] for one in status["sidecars"]] == [True]


def test_a_sidecar_that_leaves_is_let_go_and_comes_back(place: Live) -> None:
    """What it holds is released and told to stop; named again, it is pushed again."""
    place.start_pipe()
    place.start_sidecar()
    with Peer(place.service) as handler, Peer(place.service) as owner:
        handler.hello(pipes=1)
        handler.say(Serve((KIND,), 4), pipe=0)
        owner.hello(pipes=1)
        session = stored(owner, 1, KIND)
        while not isinstance(handler.receive(), Push):
            continue
        rewrite(place, "pipe.yaml", f"users: {place.push}", GHOST)
        rewrite(place, "routes.yaml", "sidecars: [users]", "sidecars: [ghost]")
        assert "sidecar users removed: what it holds is released" in reload(place)["changes"]
        shown = command("sessions", "show", str(session), "--json", at=place.path).facts
        assert (shown["state"], shown["why"], shown["charges"]) == ("stored", "NO_SIDECAR", 0)
        rewrite(place, "pipe.yaml", GHOST, f"users: {place.push}")
        rewrite(place, "routes.yaml", "sidecars: [ghost]", "sidecars: [users]")
        reload(place)
        while not isinstance(push := handler.receive(), Push):
            continue
        (part,) = push.sessions
        assert (part.index, part.epoch) == (session.index, 3)
        ack = handler.batch(Op(Verb.DELETE, part.index, part.term, part.epoch, 1))
        assert ack.results == ()


def test_plan_says_what_a_reload_would_change_and_changes_nothing(place: Live) -> None:
    """In words; exit 0 if it would be taken, 1 if not, 2 for files that are bad, 4 without a pipe."""
    place.start_pipe()
    new, routes = place.path / "new.yaml", place.path / "new-routes.yaml"
    new.write_text((place.path / "pipe.yaml").read_text().replace("routes.yaml", "new-routes.yaml"))
    routes.write_text((place.path / "routes.yaml").read_text())

    def plan(name: str = "new.yaml") -> tuple[int, list[str], list[str]]:
        ended = command("config", "plan", name, "--json", at=place.path)
        facts = json.loads(ended.out)
        return ended.code, facts["changes"], facts["refused"]

    assert plan() == plan("new-routes.yaml") == (0, [], [])
    assert command("config", "plan", "new.yaml", at=place.path).out == "no change\n"
    with Peer(place.listen) as owner:
        for request in (1, 2):
            stored(owner, request, OTHER)
    text = routes.read_text().replace(OTHER_LINE, "").replace("1ms..2ms", "1ms..2ms, concurrency: 8")
    routes.write_text(text)
    removed, less = "kind other removed: 2 stored sessions would wait as ORPHAN_KIND", "concurrency of work 64 -> 8"
    for name in ("new.yaml", "new-routes.yaml"):
        code, changes, [why] = plan(name)
        assert (code, changes) == (EXIT_FOUND_BAD, [removed, less])
        assert why.startswith("kind other (2) would leave the routes with 2 stored sessions: finish them, or say")
    routes.write_text("orphans: hold\n" + text)
    assert plan() == (0, [removed, less, "orphans refuse -> hold"], [])
    ended = command("config", "plan", "new.yaml", at=place.path)
    assert ended.out.splitlines() == [removed, less, "orphans refuse -> hold"]
    new.write_text(new.read_text().replace("16MiB", "32MiB").replace(place.push, f"{place.push}, {GHOST}"))
    code, changes, [why] = plan()
    assert (code, changes[-1]) == (EXIT_FOUND_BAD, "sidecar ghost added")
    assert why == "new.yaml:7: log.segment: 32MiB needs a restart; the pipe runs with 16MiB"
    assert command("reload", at=place.path).out.startswith("no change")
    routes.write_text(text.replace("users", "ghost"))
    assert "sidecar ghost has no address" in plan("new-routes.yaml")[2][-1]
    routes.write_text(text.replace("id: 1", "id: 0"))
    ended = command("config", "plan", "new-routes.yaml", at=place.path)
    assert ended.code == EXIT_USAGE
    assert "kinds.work.id: found 0" in ended.err
    nowhere = command("config", "plan", "routes.yaml", "--admin", f"ipc://{place.path}/none.sock", at=place.path)
    assert nowhere.code == EXIT_UNREACHABLE


def test_a_pipe_that_is_not_there_is_exit_4(place: Live) -> None:
    assert "mpy6a serve" in command("reload", at=place.path).refused(EXIT_UNREACHABLE)
