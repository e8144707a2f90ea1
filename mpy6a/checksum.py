"""CRC-32C as fast as the machine has it, without what its package loads beside it.

`import crc32c` also reads its own version out of the metadata of what is installed and builds a command line: 45 of
the 340 ms that a pipe's imports took. The compiled module inside is loaded without the package; where a release keeps
it elsewhere, the package is imported as usual.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crc32c import crc32c as crc32c
else:

    def _compiled() -> Any:
        package = find_spec("crc32c")
        inside = package.submodule_search_locations if package is not None else None
        spec = PathFinder.find_spec("crc32c._crc32c", inside) if inside else None
        if spec is None or spec.loader is None:
            return None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, "crc32c", None)

    crc32c = _compiled()
    if crc32c is None:
        from crc32c import crc32c
