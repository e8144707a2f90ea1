"""The walls that import-linter holds, for modules that may not stand yet.

Its own `forbidden` contract stops at a source module that does not exist, so that no wall could be drawn
before the room behind it. A module that *is* there is held as the plain contract holds it; one that is not is
named in a warning, so that a renamed module does not slip out unseen.
"""

from __future__ import annotations

from typing import cast

from grimp import ImportGraph
from importlinter import ContractCheck
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.domain.imports import ModuleExpression


class ForbiddenIfThere(ForbiddenContract):
    """`forbidden`, with the source modules that do not exist left out."""

    type_name = "forbidden_if_there"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        # import-linter declares its options as descriptions of fields, and they hold the values.
        named = cast("set[ModuleExpression]", self.source_modules)
        there = {source for source in named if source.expression in graph.modules}
        self.source_modules = there  # type: ignore[assignment]  # as above
        done = super().check(graph, verbose) if there else ContractCheck(kept=True)
        missing = sorted(source.expression for source in named - there)
        done.warnings.extend(f"{name} does not exist (yet): not held" for name in missing)
        return done
