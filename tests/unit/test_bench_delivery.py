"""The bench of delivery: every session stored and due at one moment, every handing noted, the hanging kind apart."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpy6a import wire
from mpy6a.benchmark import ahead, delivery, notes
from mpy6a.benchmark.ahead import Ahead
from mpy6a.benchmark.checked import CheckedExchange
from mpy6a.benchmark.handed import Delivered, Work, figures, names_of, routes_of
from mpy6a.benchmark.nothing_http import Nothing
from mpy6a.benchmark.place import Place
from mpy6a.commands.bench import bench
from mpy6a.config import Attached, HttpHandler, PythonHandler, load_pipe, load_sidecar
from mpy6a.errors import Code, Unavailable
from mpy6a.messages import Ack, Batch
from mpy6a.model import Result, SessionId, Verb

INCARNATION = b"d" * 16
MS = 1_000_000
RUN = Delivered(
    handler="attached", sessions=100, credit=64, repeats_s=30_000.0, finished_ms=400.0,
    late_p50_ms=9.0, late_p99_ms=20.0, cpu_us={"pipe": 20.0, "sidecar": 15.0, "handler": 18.0},
    syncs_per_repeat=0.01, handed=100, twice=0, left=0,
    checkpoints=0, disk_p50_us=70.0, loop_ns=50.0, durable=True,
)  # fmt: skip


# ---------------------------------------------------------------------- sessions stored ahead


def talk(exchange: CheckedExchange[int], stock: Ahead, log_ms: int, *, code: int = 0) -> list[list[tuple[int, int]]]:
    """Acknowledge all that is to be sent; (verb, argument) of each batch."""
    seen = []
    index = 100 + len(stock.kinds)
    while messages := exchange.outgoing(0):
        for message in messages:
            batch = wire.decode(wire.unpack(message)[0])
            assert isinstance(batch, Batch)
            seen.append([(op.verb, op.argument) for op in batch.ops])
            results = (Result(0, code),) if code else ()
            ack = wire.encode(Ack(batch.number, index, log_ms, 3, results=results), incarnation=INCARNATION, pipe=1)
            index += len(batch.ops)
            stock.answered(exchange.receive(wire.unpack(ack)[0], 0), 0, 0)
    return seen


def exchange_at_pipe_1() -> CheckedExchange[int]:
    exchange: CheckedExchange[int] = CheckedExchange(INCARNATION, 1)
    exchange.heard(1_000, 0)
    return exchange


def test_all_sessions_are_opened_kinds_by_turns_and_then_stored_with_one_delay() -> None:
    exchange = exchange_at_pipe_1()
    stock = Ahead(exchange, [7, 8, 9], 5, b"r")
    stock.begin(0, 0)
    assert talk(exchange, stock, 1_000) == [[(Verb.NEW, kind) for kind in (7, 8, 9, 7, 8)]]
    assert (stock.running, stock.stored) == (0, False)
    stock.store(250, 0)
    assert stock.running == 5
    assert talk(exchange, stock, 1_010) == [[(Verb.STORE, 250)] * 5]
    assert (stock.running, stock.stored) == (0, True)
    # What the frame of the Stores says is the due time, whenever they were called.
    assert stock.due_ms == {SessionId(1, 3, 100 + place): 1_260 for place in range(5)}
    assert list(stock.kinds.values()) == [7, 8, 9, 7, 8]


def test_more_than_one_client_may_store_at_once_go_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "STORES_AT_ONCE", 3)
    monkeypatch.setattr(ahead, "NEWS_IN_FLIGHT", 2)
    exchange = exchange_at_pipe_1()
    stock = Ahead(exchange, [1], 4, b"")
    stock.begin(0, 0)
    assert [len(batch) for batch in talk(exchange, stock, 1_000)] == [2, 2]
    for after_ms, count in ((50, 3), (40, 1)):
        stock.store(after_ms, 0)
        assert talk(exchange, stock, 1_000) == [[(Verb.STORE, after_ms)] * count]
    assert sorted(stock.due_ms.values()) == [1_040, 1_050, 1_050, 1_050]


def test_a_refused_session_measures_nothing() -> None:
    exchange = exchange_at_pipe_1()
    stock = Ahead(exchange, [1], 1, b"")
    stock.begin(0, 0)
    with pytest.raises(Unavailable, match="nothing to measure"):
        talk(exchange, stock, 1_000, code=Code.DISK_LOW)


# ---------------------------------------------------------------------- figures


def told(*runs: tuple[int, int, int]) -> notes.Notes:
    """Notes of sessions by their index, handed and done in ms."""
    found = notes.Notes()
    found.runs = [(str(SessionId(1, 3, index)), handed * MS, done * MS) for index, handed, done in runs]
    return found


def measured(noted: notes.Notes, *, handler: str = "attached", hung: int = 0, gone_ms: int = 0) -> Delivered:
    due = {SessionId(1, 3, index): 1_000 for index in range(1, 5)}
    return figures(
        Work(handler, 4, 64), noted, due, set(list(due)[:hung]), 64, {"pipe": 4 * MS}, gone_ns=gone_ms * MS,
        syncs=2, left=hung, checkpoints=0, disk_ns=[1_000, 3_000, 2_000], turn_ns=50.0, durable=True,
    )  # fmt: skip


def test_lateness_is_counted_from_the_due_time_and_the_rate_to_the_last_durable_end() -> None:
    run = measured(told((1, 1_001, 1_020), (2, 1_002, 1_030), (3, 1_003, 1_040), (4, 1_009, 1_050)))
    assert (run.late_p50_ms, run.late_p99_ms) == (3.0, 9.0)
    assert (run.finished_ms, run.repeats_s) == (50.0, 80.0)
    assert (run.handed, run.twice) == (4, 0)
    assert (run.cpu_us, run.syncs_per_repeat, run.disk_p50_us) == ({"pipe": 1_000.0}, 0.5, 2.0)


def test_an_http_handler_is_done_when_the_pipe_has_none_of_its_sessions_left() -> None:
    run = measured(told(*((index, 1_001, 1_002) for index in range(1, 5))), handler="http", gone_ms=1_200)
    assert (run.finished_ms, run.repeats_s) == (200.0, 20.0)


def test_who_hangs_counts_in_no_rate_and_who_is_handed_over_twice_is_told() -> None:
    run = measured(told((2, 1_001, 1_100), (3, 1_001, 1_100), (4, 1_001, 1_050), (4, 1_060, 1_100)), hung=1)
    assert (run.sessions, run.repeats_s, run.left) == (3, 30.0, 1)
    assert (run.handed, run.twice) == (4, 1)


@pytest.mark.parametrize("noted", [told(), told((9, 1, 1))])
def test_notes_of_nobody_and_of_strangers_measure_nothing(noted: notes.Notes) -> None:
    with pytest.raises(Unavailable, match="of sessions that nobody stored"):
        measured(noted)


def test_notes_are_read_as_they_were_written(tmp_path: Path) -> None:
    noted = told((1, 2, 3), (4, 5, 6))
    noted.acks_not_durable = 7
    noted.write(tmp_path / "notes")
    again = notes.read(tmp_path / "notes")
    assert (again.runs, again.acks_not_durable) == (noted.runs, 7)


def test_the_report_has_median_and_spread_what_is_asked_and_who_used_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = iter([30_000.0, 40_000.0, 20_000.0] + [10_000.0] * 3 + [20_000.0, 18_000.0] * 3)

    def deliver(disk: Path, fsync: str, work: Work, record: bytes) -> Delivered:
        return replace(RUN, handler=work.handler, sessions=work.sessions, repeats_s=next(rates))

    monkeypatch.setattr(delivery, "deliver", deliver)
    monkeypatch.setattr(delivery, "real_disk", lambda disk: "ext4")
    plan = delivery.DeliveryPlan(tmp_path, ("attached",), 128, (1_000,), 64, 3, 16, "always")
    facts = json.loads(json.dumps(delivery.measure(plan, lambda line: None)))
    assert facts["durable"] is True
    assert facts["rates"][0]["repeats_s"] == {"median": 30_000.0, "low": 20_000.0, "high": 40_000.0}
    assert facts["kinds"]["kept"] == {"median": 0.9, "low": 0.9, "high": 0.9}
    text = delivery.text(facts)
    assert text.startswith("every operation durable before its ack | delivery of sessions with one record of 16 B")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert lines[2][:8] == ["attached", "128", "64", "30.0 (20.0-40.0)", "30", "20.0", "15.0", "18.0"]
    assert lines[5][:8] == ["1000", "64", "9.0 (9.0-9.0)", "10", "20.0 (20.0-20.0)", "25", "400.0 (400.0-400.0)", "-"]
    assert lines[9][:6] == ["64", "hangs", "64", "18.0 (18.0-18.0)", "90% (90%-90%)", "90%"]


def test_a_pipe_that_syncs_late_is_never_called_durable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(delivery, "deliver", lambda *arguments: RUN)
    monkeypatch.setattr(delivery, "real_disk", lambda disk: "ext4")
    plan = delivery.DeliveryPlan(tmp_path, ("http",), 20, (), 0, 1, 16, "interval")
    facts = delivery.measure(plan, lambda line: None)
    assert facts["durable"] is False
    assert delivery.text(facts).startswith("NOT DURABLE")


# ---------------------------------------------------------------------- processes


@pytest.mark.parametrize(
    ("handler", "sort"), [("attached", Attached), ("python", PythonHandler), ("http", HttpHandler)]
)
def test_the_routes_of_a_run_are_good(tmp_path: Path, handler: str, sort: type) -> None:
    work = Work(handler, 10, 512, kinds=1 if handler == "python" else 3)
    with Place(tmp_path, routes=routes_of(work, 8_001)) as place:
        files = Path(place.doors.admin.removeprefix("ipc://")).parent
        sidecar = load_sidecar(files / "sidecar.yaml")
        assert list(sidecar.kinds) == list(load_pipe(files / "pipe.yaml").routes.kinds) == names_of(work)
        for number, route in enumerate(sidecar.kinds.values(), 1):
            assert isinstance(route.handler, sort)
            assert (route.policy.id, route.policy.concurrency) == (number, 512)


def test_the_http_handler_answers_204_once_it_has_the_whole_request() -> None:
    noted = notes.Notes()

    async def ask(*parts: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Nothing(noted), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for part in parts:
            writer.write(part)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return answer

    head = b"POST / HTTP/1.1\r\nHost: a\r\nMpy6a-Session: 1.3.9\r\nContent-Length: 4\r\n\r\n"
    assert asyncio.run(ask(head[:30], head[30:] + b"ab", b"cd")).startswith(b"HTTP/1.1 204 ")
    [(session, handed_ns, done_ns)] = noted.runs
    assert session == "1.3.9"
    assert 0 < handed_ns <= done_ns


# ---------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--handler", "exec"], "attached, python, http, one or more of them"),
        (["--sessions", "0"], "takes 1 to 1000000"),
        (["--sessions", "1000001"], "takes 1 to 1000000"),
        (["--kinds", "1"], "0 for none, or from 2"),
        (["--kinds", "9", "--sessions", "8"], "to the number of --sessions"),
        (["--burst", "x"], "numbers from 1 to 16384"),
        (["--level", "api"], "--level is not for `bench delivery`"),
        (["--in-flight", "4"], "--in-flight is not for `bench delivery`"),
    ],
)
def test_what_delivery_cannot_do_is_one_sentence(options: list[str], sentence: str) -> None:
    said = CliRunner().invoke(bench, ["delivery", *options])
    assert said.exit_code == 2
    assert sentence in " ".join(said.output.split())
