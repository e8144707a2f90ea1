"""A state with a planted fault: the package's own modules, read as text, changed in one place, and run afresh."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from .pair import NewState

# What `apply` is made of, lowest first: each is run anew, so that the higher ones see the changed lower ones.
MODULES = ("mpy6a.session", "mpy6a.requests", "mpy6a.given", "mpy6a.sessions", "mpy6a.state")


@dataclass(frozen=True)
class Mutation:
    """One fault: in which module, which text, and what stands there instead."""

    name: str
    module: str
    old: str
    new: str


def state_with(mutations: Iterable[Mutation]) -> NewState:
    """Makes states that have these faults; the modules that everybody else imports stay as they are.

    Raises ValueError for a text that is not there exactly once: the code moved on, and the mutation must follow.
    """
    planted = tuple(mutations)
    before = {name: sys.modules.get(name) for name in MODULES}
    try:
        for name in MODULES:
            _run(name, [mutation for mutation in planted if mutation.module == name])
        return cast(NewState, sys.modules["mpy6a.state"].State)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _run(name: str, mutations: Iterable[Mutation]) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    for mutation in mutations:
        if text.count(mutation.old) != 1:
            raise ValueError(f"{mutation.name}: {text.count(mutation.old)} places in {name}: {mutation.old!r}")
        text = text.replace(mutation.old, mutation.new)
    module = ModuleType(name)
    module.__file__ = f"{spec.origin} ({', '.join(mutation.name for mutation in mutations) or 'as it is'})"
    sys.modules[name] = module
    exec(compile(text, module.__file__, "exec"), module.__dict__)
