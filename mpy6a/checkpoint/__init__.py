"""The checkpoint: what the pipe knew at one index of its log, in one SQLite file. FORMAT.md says what its bytes mean.

`file.CheckpointFile` reads and writes it, `loading.load_state` makes a `State` of it, `writing.CheckpointWriter` puts
what a `State` changed since into it.
"""
