"""A program that writes down what it is about to do, and the handler that finishes what it left undone.

Start `mpy6a serve` and `mpy6a-sidecar` in this directory, each in a terminal, then `python handlers.py Ada`.
It opens a session, writes a name down and dies before it has greeted. A second later the sidecar greets Ada:
the pipe kept the session and handed it to `finish_greeting`.
"""

import os
import sys

import mpy6a


@mpy6a.handler("greeting")
async def finish_greeting(repeat: mpy6a.RepeatData) -> None:
    """Finishes one greeting. Raising, or returning without a decision, has it repeated later."""
    session = repeat.session
    if not repeat.records:  # the program died before it wrote anything: nothing was begun
        return await session.delete()
    name = repeat.records[0].json()["name"]
    print(f"Hello {name}! (session {session.id}, repeat {repeat.repeats})", flush=True)
    await session.delete()  # done: the session is finished, and gone


def greet(name: str) -> None:
    """Begins a greeting and dies in the middle of it."""
    with mpy6a.Pipe() as pipe, pipe.new("greeting") as session:
        session.append(json={"name": name})
        print(f"session {session.id} is written down; dying before the greeting", flush=True)
        os._exit(1)  # as a kill or a power cut would: nothing after this line runs, not even `finally`


if __name__ == "__main__":
    greet(sys.argv[1] if len(sys.argv) > 1 else "world")
