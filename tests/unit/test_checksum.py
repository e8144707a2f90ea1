"""CRC-32C: the polynomial that the log's format names, loaded without its package."""

from __future__ import annotations

import subprocess
import sys

from mpy6a.checksum import crc32c


def test_it_is_castagnolis() -> None:
    """The check value of the catalogue, and continuing from a seed: crc(a + b, s) = crc(b, crc(a, s))."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"456789", crc32c(b"123")) == 0xE3069283
    assert crc32c(memoryview(b"123456789")[3:], crc32c(b"123")) == 0xE3069283


def test_without_the_compiled_module_the_package_does() -> None:
    """A release of crc32c that keeps it elsewhere costs a slower start, nothing else."""
    program = (
        "import sys, importlib.util; importlib.util.find_spec = lambda name: None;"
        "from mpy6a.checksum import crc32c; print(crc32c(b'123456789'), 'crc32c' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == [str(0xE3069283), "True"]
