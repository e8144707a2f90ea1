"""The tables of a checkpoint as SQL, and the numbers that name the format. What they mean: FORMAT.md."""

from __future__ import annotations

from typing import Final

FORMAT_VERSION: Final = 1  # user_version; FORMAT.md, "Version rule"
APPLICATION_ID: Final = 0x6D703661  # "mp6a": what `file` and SQLite's tools show
PAGE_BYTES: Final = 4096
RESERVED_BYTES: Final = 8  # of each page, for the checksum of cksumvfs

TABLES: Final = """
CREATE TABLE checkpoint (
    one INTEGER PRIMARY KEY CHECK (one = 1), pipe INTEGER NOT NULL, next_index INTEGER NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, term INTEGER NOT NULL, log_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL, level INTEGER NOT NULL, clock_accepted_ms INTEGER NOT NULL,
    terms INTEGER NOT NULL, pauses INTEGER NOT NULL, clients INTEGER NOT NULL,
    log BLOB NOT NULL, policy BLOB NOT NULL, release TEXT NOT NULL, crc INTEGER NOT NULL
) STRICT;
CREATE TABLE sessions (
    idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, kind INTEGER NOT NULL, state INTEGER NOT NULL,
    epoch INTEGER NOT NULL, seq INTEGER NOT NULL, change INTEGER NOT NULL, created_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL, stored_index INTEGER NOT NULL, cancel INTEGER NOT NULL, paused INTEGER NOT NULL,
    repeats INTEGER NOT NULL, charges INTEGER NOT NULL, barren INTEGER NOT NULL, releases INTEGER NOT NULL,
    fence INTEGER NOT NULL, started_ms INTEGER NOT NULL, grew INTEGER NOT NULL,
    writer BLOB NOT NULL, target BLOB NOT NULL, sidecar TEXT NOT NULL, key TEXT, order_key TEXT, schema TEXT NOT NULL,
    trace BLOB NOT NULL, park_reason TEXT NOT NULL, last BLOB NOT NULL, attempts TEXT NOT NULL,
    positions BLOB NOT NULL, records_crc INTEGER NOT NULL, crc INTEGER NOT NULL, records BLOB NOT NULL
) STRICT;
CREATE INDEX sessions_due ON sessions (kind, due_ms, stored_index) WHERE state = 2 AND NOT paused;
CREATE INDEX sessions_key ON sessions (kind, key) WHERE key IS NOT NULL;
CREATE INDEX sessions_order ON sessions (kind, order_key, idx) WHERE order_key IS NOT NULL;
CREATE INDEX sessions_held ON sessions (state, idx) WHERE state IN (1, 3);
CREATE TABLE filter (shard INTEGER PRIMARY KEY, bits BLOB NOT NULL, crc INTEGER NOT NULL) STRICT;
CREATE TABLE counts (
    kind INTEGER NOT NULL, state INTEGER NOT NULL, sessions INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (kind, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE terms (term INTEGER PRIMARY KEY, first_index INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT;
CREATE TABLE pauses (
    kind INTEGER PRIMARY KEY, until_ms INTEGER NOT NULL, who TEXT NOT NULL, reason TEXT NOT NULL, crc INTEGER NOT NULL
) STRICT;
CREATE TABLE clients (
    incarnation BLOB PRIMARY KEY NOT NULL, mark INTEGER NOT NULL, last_ms INTEGER NOT NULL, outcomes BLOB NOT NULL,
    crc INTEGER NOT NULL
) STRICT;
CREATE INDEX clients_last ON clients (last_ms);
CREATE TABLE traces (
    idx INTEGER NOT NULL, term INTEGER NOT NULL, epoch INTEGER NOT NULL, log_ms INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (idx, term)
) STRICT, WITHOUT ROWID;
CREATE INDEX traces_log ON traces (log_ms);
CREATE TABLE kinds (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
CREATE VIEW live AS SELECT
    (SELECT pipe FROM checkpoint) || '.' || s.term || '.' || s.idx AS id,
    coalesce(k.name, s.kind) AS kind,
    CASE s.state WHEN 1 THEN 'OPEN' WHEN 2 THEN 'STORED' WHEN 3 THEN 'REPEATING' WHEN 4 THEN 'PARKED' END AS state,
    iif(s.due_ms, strftime('%Y-%m-%dT%H:%M:%fZ', s.due_ms / 1000.0, 'unixepoch'), NULL) AS due,
    strftime('%Y-%m-%dT%H:%M:%fZ', s.created_ms / 1000.0, 'unixepoch') AS created,
    s.epoch, s.repeats, s.charges, s.paused, s.cancel, s.key, s.order_key, s.schema, s.sidecar, s.park_reason,
    length(s.positions) / 12 AS records, length(s.records) AS bytes, s.change, s.idx
    FROM sessions AS s LEFT JOIN kinds AS k ON k.id = s.kind;
"""
