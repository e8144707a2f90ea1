"""Frozen bytes and transcripts: what is on disks and on the wire already."""
