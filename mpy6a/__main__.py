"""`python -m mpy6a`: the same as the `mpy6a` command."""

from mpy6a.cli import main

main()
