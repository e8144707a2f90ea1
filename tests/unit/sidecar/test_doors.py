"""The sidecar's sockets: modes, locks, frames, and who is at the other end."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from mpy6a import limits
from mpy6a.errors import CannotStart
from sidecar.doors import Doors
from sidecar.peers import Peers
from sidecar.runner import new_incarnation
from tests.ports import FreePorts

Socket = zmq.Socket[bytes]
OWN = b"\x07" * 16
DEADLINE_S = 5.0


@contextmanager
def doors(path: Path, counts: Counter[str] | None = None, push: str | None = None, *pipes: str) -> Iterator[Doors]:
    made = Doors(OWN, f"ipc://{path}/s.sock", 0o600, -1, pipes, push, Counter() if counts is None else counts)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def peer(kind: int, address: str = "", bind: str = "") -> Iterator[Socket]:
    context: zmq.Context[Socket] = zmq.Context()
    socket = context.socket(kind)
    socket.linger = 0
    socket.rcvtimeo = int(DEADLINE_S * 1000)
    if bind:
        socket.bind(bind)
    if address:
        socket.connect(address)
    try:
        yield socket
    finally:
        context.destroy(linger=0)


def read(made: Doors, peers: Peers, wanted: int) -> list[tuple[bytes, bytes, int]]:
    """So many messages of the service's socket."""
    found: list[tuple[bytes, bytes, int]] = []
    end_s = time.monotonic() + DEADLINE_S
    while len(found) < wanted:
        assert time.monotonic() < end_s
        found += made.from_service(peers)
    return found


def peers(died: list[bytes] | None = None) -> Peers:
    return Peers(asyncio.get_running_loop(), (died if died is not None else []).append)


def test_the_door_is_its_owners_alone_and_has_one_owner(short_tmp: Path) -> None:
    """A second bind would steal it silently: it is refused, and the first goes on."""
    with doors(short_tmp):
        mode = stat.S_IMODE(os.stat(short_tmp / "s.sock").st_mode)
        assert mode == 0o600
        with pytest.raises(CannotStart, match="another process listens there"), doors(short_tmp):
            pass
        assert (short_tmp / "s.sock").exists()
    with doors(short_tmp):
        pass


def test_a_push_address_in_use_is_one_sentence(short_tmp: Path, free_port: FreePorts) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        peer(zmq.DEALER, bind=address),
        pytest.raises(CannotStart, match=address),
        doors(short_tmp, None, address),
    ):
        pass


def test_messages_of_more_than_one_frame_shift_nothing(short_tmp: Path) -> None:
    """Counted and read away; what comes behind them is as it was sent, at every socket."""

    async def test() -> None:
        counts: Counter[str] = Counter()
        pipe, push = f"ipc://{short_tmp}/pipe", f"ipc://{short_tmp}/push"
        with (
            peer(zmq.ROUTER, bind=pipe) as router,
            doors(short_tmp, counts, push, pipe) as made,
            peer(zmq.DEALER, f"ipc://{short_tmp}/s.sock") as client,
            peer(zmq.DEALER, push) as dialer,
        ):
            for frames in ([b"a", b"b"], [b"", b"x", b"y"], [b"good"]):
                client.send_multipart(frames)
                dialer.send_multipart(frames)
            ((_, payload, _),) = read(made, peers(), 1)
            assert payload == b"good"
            pushed: list[bytes] = []
            while not pushed:
                pushed = list(made.from_dials())
            assert pushed == [b"good"]
            while not made.to_pipe(0, b"hello"):
                continue
            identity, _ = router.recv_multipart()
            router.send_multipart([identity, b"a", b"b"])
            router.send_multipart([identity, b"fine"])
            answers: list[bytes] = []
            while not answers:
                answers = list(made.from_pipe(0))
            assert answers == [b"fine"]
            assert counts == {"service_frames": 2, "dial_frames": 2, "pipe_frames": 1}

    asyncio.run(test())


def test_a_message_over_the_envelopes_bound_does_not_get_in(short_tmp: Path) -> None:
    """ZeroMQ drops that connection; the next message of somebody else comes."""

    async def test() -> None:
        with doors(short_tmp) as made, peer(zmq.DEALER, f"ipc://{short_tmp}/s.sock") as client:
            client.send(bytes(limits.ENVELOPE_BYTES_MAX + 1))
            with peer(zmq.DEALER, f"ipc://{short_tmp}/s.sock") as other:
                other.send(b"small")
                ((_, payload, _),) = read(made, peers(), 1)
                assert payload == b"small"

    asyncio.run(test())


def test_the_kernel_says_who_a_client_is(short_tmp: Path) -> None:
    """uid + 1 over ipc, for each message of the connection."""

    async def test() -> None:
        known = peers()
        with doors(short_tmp) as made, peer(zmq.DEALER, f"ipc://{short_tmp}/s.sock") as client:
            client.send(b"1")
            client.send(b"2")
            found = read(made, known, 2)
            assert [principal for _, _, principal in found] == [os.getuid() + 1] * 2
        known.close()

    asyncio.run(test())


def test_nothing_is_sent_to_nobody(short_tmp: Path, free_port: FreePorts) -> None:
    """A pipe that is not there blocks, a client that is gone is told: neither is queued in ZeroMQ."""
    counts: Counter[str] = Counter()
    with doors(short_tmp, counts, None, f"tcp://127.0.0.1:{free_port()}") as made:
        assert not made.to_pipe(0, b"x")
        assert not made.writable(0)
        assert not made.to_service(b"nobody", b"x")
        assert counts["service_gone"] == 1


def test_who_dials_hears_whom_it_reached(short_tmp: Path) -> None:
    """One empty frame from the sidecar's incarnation: then it can be greeted."""
    push = f"ipc://{short_tmp}/push"
    with doors(short_tmp, None, push) as made, peer(zmq.ROUTER, push) as pipe:
        end_s = time.monotonic() + DEADLINE_S
        while not pipe.poll(0):
            assert time.monotonic() < end_s
            made.note_all()
            made.pending()  # as the loop does when a descriptor becomes readable
        assert pipe.recv_multipart() == [OWN, b""]
        pipe.send_multipart([OWN, b"greeting"])
        got: list[bytes] = []
        while not got:
            assert time.monotonic() < end_s
            made.note_all()
            got = list(made.from_dials())
        assert got == [b"greeting"]


def test_the_death_of_a_clients_process_is_known_at_once(short_tmp: Path) -> None:
    """Long before its lease ends."""
    door = f"ipc://{short_tmp}/s.sock"
    code = f"import zmq; s = zmq.Context().socket(zmq.DEALER); s.connect({door!r}); s.send(b'x'); s.recv()"

    async def test(process: subprocess.Popen[bytes]) -> None:
        died: list[bytes] = []
        told = asyncio.Event()

        def on_death(identity: bytes) -> None:
            died.append(identity)
            told.set()

        known = Peers(asyncio.get_running_loop(), on_death)
        with doors(short_tmp) as made:
            ((identity, _, _),) = read(made, known, 1)
            process.kill()
            async with asyncio.timeout(DEADLINE_S):
                await told.wait()
            assert died == [identity]
        known.close()

    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        asyncio.run(test(process))
    finally:
        process.kill()
        process.wait()


def test_an_incarnation_is_an_identity_that_zeromq_takes() -> None:
    """It never begins with a zero byte, and is never the same."""
    drawn = {new_incarnation() for _ in range(2_000)}
    assert len(drawn) == 2_000
    assert all(len(one) == 16 and one[0] for one in drawn)


def test_a_descriptor_that_speaks_is_looked_at(short_tmp: Path) -> None:
    """Every message is read by whoever notes descriptors, and looks again after each turn: also beside answers."""

    async def test() -> None:
        known = peers()
        with doors(short_tmp) as made, peer(zmq.DEALER, f"ipc://{short_tmp}/s.sock") as client:
            poller = select.poll()
            for descriptor in made.descriptors():
                poller.register(descriptor, select.POLLIN)
            made.pending()
            for number in range(50):
                client.send(b"%d" % number)
                found: list[bytes] = []
                while not found:
                    if not made.pending():
                        ready = poller.poll(int(DEADLINE_S * 1000))
                        assert ready, f"message {number} was missed"
                        for descriptor, _ in ready:
                            made.note(descriptor)
                    for identity, payload, _ in made.from_service(known):
                        found.append(payload)
                        assert made.to_service(identity, payload)
                assert found == [b"%d" % number] == [client.recv()]
        known.close()

    asyncio.run(test())
