"""Frozen bytes of every message and log body, one `name.hex` each."""
