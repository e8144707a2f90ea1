"""Backups of a pipe's data directory, running or stopped, and their way back (FORMAT.md).

`taking.take` makes or renews one, `restoring.restore` makes a data directory of it, `manifest` says what one consists
of.
"""
