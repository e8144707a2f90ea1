"""`python -m mpy6a.config.reading`: reads a pipe's files for the pipe, beside its loop, and checks them whole.

Told by one pickled `Known` on stdin; says its parts (`mpy6a.readings`) on stdout, each behind its length as a u32. A
process of its own: checking 4,096 kinds takes a second, in a thread every turn of the loop would wait for it.
"""

from __future__ import annotations

import pickle
import struct
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from mpy6a import limits, wire
from mpy6a.config.problems import ConfigProblems
from mpy6a.config.setup import load_setup
from mpy6a.entries import encode_policy
from mpy6a.readings import Bad, Kinds, Known, Part, Whole
from mpy6a.welcome import welcome

LENGTH: Final = struct.Struct("<I")


def parts(known: Known) -> Iterator[Part]:
    """What the files say."""
    try:
        setup, places = load_setup(Path(known.path))
    except ConfigProblems as found:
        names = ("file", "line", "key", "found", "allowed")
        problems = found.problems[: limits.CONFIG_PROBLEMS_MAX]
        yield Bad(tuple({name: getattr(one, name) for name in names} | {"text": str(one)} for one in problems))
        return
    policy = setup.policy
    kinds = iter(policy.kinds.values())
    while some := tuple(islice(kinds, limits.RELOAD_KINDS)):
        yield Kinds(some)
    said = wire.encode(welcome(policy, known.pipe, known.term, known.log_ms, known.hop), incarnation=known.hop)
    [message] = wire.unpack(said)
    yield Whole.of(setup, places, encode_policy(policy), bytes(message.body))


def main() -> None:
    """Reads once, and ends."""
    known = pickle.load(sys.stdin.buffer)
    for part in parts(known):
        said = pickle.dumps(part)
        sys.stdout.buffer.write(LENGTH.pack(len(said)) + said)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        pass  # the pipe has ended
