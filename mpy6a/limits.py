"""Every bound of the pipe, with its unit, default and reason. Told to clients at hello, never guessed."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# What a user may store (semantics.md, "Limits").
RECORD_BYTES_MAX: Final = 1 * MIB  # one record
SESSION_BYTES_MAX: Final = 16 * MIB  # all records of a session; a RepeatData is at most that
SESSION_RECORDS_MAX: Final = 4_096  # records of a session

# What travels in one message.
MESSAGE_BYTES_MAX: Final = 4 * MIB  # one packed message, header included
MESSAGE_OPERATIONS_MAX: Final = 1_024  # operations of one batch
ENVELOPE_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 64 * KIB  # packed messages in one ZeroMQ message
ENVELOPE_MESSAGES_MAX: Final = 1_024  # as many clients as one sidecar packs in one go
BATCH_OPERATIONS: Final = 128  # what a client packs at most: with two in flight client, sync and pipe work at once
TEXT_BYTES_MAX: Final = 512  # reasons, messages of errors, first bytes of stderr
KEY_BYTES_MAX: Final = 256  # key and order_key of a session
TRACE_BYTES_MAX: Final = 128  # a W3C traceparent is 55
ADMIN_BYTES_MAX: Final = 1 * MIB  # one admin request or page of a reply
HELD_SESSIONS_MAX: Final = 65_536  # sessions listed in one sidecar hello

# Queues of the pipe.
GROUP_BYTES_MAX: Final = 8 * MIB  # what one drain brings to one write and one sync
GROUP_FRAMES_MAX: Final = 1_024
DRAIN_MESSAGES_MAX: Final = 512  # messages taken from one socket before the others get their turn
CLIENT_OUTCOMES_MAX: Final = 16_384  # kept outcomes of New of one client; above: BUSY
OUTCOMES_MAX: Final = 4_000_000  # kept outcomes of New in all; above: BUSY
PROPOSALS_MAX: Final = 1_024  # proposals in one frame, and the slice of "owner gone" or expiry in one turn
DISPATCHES_MAX: Final = 128  # of them in one turn: handlers begin with the first while the next are logged
ORPHANS_LOOKED: Final = 1_000  # sessions in memory looked at in one turn for `orphans: park`: 0.3 ms
ORPHANS_FILED: Final = 64  # and rows of the checkpoint brought in by one: 1 to 2 ms
ORPHANS_LOOK_MS: Final = 1_000  # between two passes: who is STORED only now is parked so much later
ATTEMPTS_KEPT: Final = 16  # attempts remembered of a session
CLIENTS_MAX: Final = 65_536  # client incarnations a pipe or sidecar hears at a time

# Clocks.
LEASE_MS: Final = 15_000  # a client that is silent this long has its sessions stored
HEARTBEAT_MS: Final = LEASE_MS // 3
TICK_MS: Final = 5  # the grain of the wheel: a due session is at most this late by it
FINISHED_TRACE_MS: Final = 24 * 3_600_000  # how long (id, epoch) of a session finished in an epoch > 1 is known
OUTCOME_KEPT_MS: Final = 3_600_000  # outcomes of New after the client's last frame
CLOCK_LEAP_MAX_MS: Final = 7 * 24 * 3_600_000  # a leap of the wall clock taken without asking at opening

# Client library.
TIMEOUT_S: Final = 30.0  # an operation's wait before OutcomeUnknown
LEAVE_TIMEOUT_S: Final = 1.0  # leaving a session's block by an exception waits at most this
RESEND_MS: Final = 2_000  # an unanswered batch is sent again after this, doubling up to RESEND_MAX_MS
RESEND_MAX_MS: Final = 15_000
WAITING_OPERATIONS_MAX: Final = 65_536  # operations called and not yet answered in one client; above: Busy

# Push.
PUSH_SESSIONS_MAX: Final = 64  # sessions in one push message (evidence.md: 64 a message)
CREDIT_SESSIONS: Final = 1_024  # what a sidecar grants per kind at most: `concurrency` of the kind if that is less
CREDIT_BYTES: Final = 64 * MIB
ACCEPT_TIMEOUT_MS: Final = 5_000  # a push without Accepted in this time: the pipe dials anew

# Local paths.
IPC_PATH_BYTES_MAX: Final = 100  # the kernel's limit is 107 with the terminating zero; a margin for lock files

# Configuration. A file over a bound is refused with the bound named; reading any file takes bounded time.
CONFIG_BYTES_MAX: Final = 1 * MIB  # one file
CONFIG_DEPTH_MAX: Final = 16  # nesting of mappings and lists; the deepest key there is stands at 5
CONFIG_NODES_MAX: Final = 65_536  # keys and values of one file: 4,096 kinds with every key spelled out
CONFIG_PROBLEMS_MAX: Final = 100  # problems told at once; more are counted
RELOAD_KINDS: Final = 64  # kinds that the pipe takes in from a reload in one turn: 1 ms
RELOAD_MS: Final = 30_000  # for reading the files; a second at KINDS_MAX, the rest is for a busy machine
RELOAD_POLL_MS: Final = 10  # between two looks at the process that reads them, while it says nothing
RELOAD_STEPS: Final = 8  # dials and welcomes that a reload brings in one turn
REDIAL_REST_MS: Final = 100  # between hanging up and dialing the same sidecar; measured: gone within 20
REDIAL_MS: Final = 2_000  # a sidecar that a reload brought is dialed again if it said no hello by then
RELOADS_MAX: Final = 16  # operators that wait for one reload; above: BUSY
CHANGES_SHOWN: Final = 50  # changes and refusals told in words in one answer: 1 ms
KINDS_MAX: Final = 4_096  # kinds in the routes: the Policy frame stays below MESSAGE_BYTES_MAX
KIND_SIDECARS_MAX: Final = 64  # sidecars of one kind
SIDECARS_MAX: Final = 1_024  # sidecars a pipe dials: one connection each
NAME_BYTES_MAX: Final = 64  # names of kinds and sidecars
DURATION_MS_MAX: Final = 366 * 24 * 3_600_000  # a duration in a file; more is a slip in the unit
CONCURRENCY_MAX: Final = 65_535  # handlers of one kind at a time
RATE_MAX: Final = 1_000_000  # sessions handed out in one unit of time
BREAKER_MAX: Final = 1_000  # failures in a row that open a breaker
PROBE_MS_MAX: Final = 30_000  # between two probes of an open breaker
RAMP_AFTER_MS: Final = 1_000  # without a sidecar while sessions are due: an outage; the load ramps after it ...
RAMP_SESSIONS: Final = 16  # ... from so many at a time
LEASE_MS_MIN: Final = 300  # below 100 ms between two heartbeats a busy machine loses live clients
SEGMENT_BYTES_MIN: Final = 2 * GROUP_BYTES_MAX  # a segment holds at least one group, and is not all headers
SEGMENT_BYTES_MAX: Final = 1024 * MIB  # zero-filled ahead: more holds up the disk when a segment is made

# The local log (mpy6a/log/FORMAT.md).
LOG_FRAME_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 64 * KIB  # one frame: the biggest message, header and verdicts
SEGMENT_BYTES: Final = 64 * MIB  # one segment: 70 ms to fill with zeroes, and a handful of files an hour at full load
FIRST_SEGMENT_BYTES: Final = 8 * MIB  # a log's first one: holds the biggest frame, filled in a tenth of the time
PREPARE_BYTES: Final = 1 * MIB  # zeroes written in one turn for the next segment: about 1 ms each
SPARE_SEGMENTS_MAX: Final = 4  # trimmed segments kept for reuse; the rest gives its space back
OPEN_SEGMENTS_MAX: Final = 64  # segments kept open for reading records back, of 1,024 descriptors a process has
SYNC_TIMES_KEPT: Final = 1_024  # durations of the last syncs, for `status` and `bench`

# Sidecar.
LINK_QUEUE_BYTES_MAX: Final = 64 * MIB  # operations that wait for one pipe in a sidecar; above: BUSY
CLIENT_QUEUE_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX  # of those, from one client: it cannot fill the queue alone
CONNECTION_CLIENTS_MAX: Final = 256  # incarnations that one connection to a sidecar may speak for; a library has one
TURN_MS: Final = 20  # what a sidecar reads from one socket before the others get their turn
HANDED_MAX: Final = 65_536  # sessions whose last run a sidecar remembers, so that no run begins twice
GONE_TOLD: Final = 3  # heartbeats that repeat that a client is gone: a lost message is made up for
HELLO_MS: Final = 1_000  # between two hellos to a pipe that does not answer
DIALS_MAX: Final = 64  # pipes that may greet one sidecar before they are known by their own connection
SERVICE_GRACE_MS: Final = 5_000  # a push waits this long for its service to come (back) before it is released
CALLBACK_BYTES_MAX: Final = RECORD_BYTES_MAX  # body of a callback of an http or exec handler: one record
ANSWER_BYTES_MAX: Final = 64 * KIB  # what an http handler may answer with
RETRY_AFTER_MAX_MS: Final = 10 * 60_000  # Retry-After of a handler is honoured up to this
HEALTH_MS: Final = 1_000  # between two questions whether an http handler is back
EXEC_STOP_MS: Final = 5_000  # from SIGTERM to SIGKILL of a program that is stopped; what systemd gives is 90 s
STDERR_READ_BYTES_MAX: Final = 1 * MIB  # of what a program has written when it ends: a pipe holds 64 KiB
CHILD_RESTART_MS: Final = 250  # before the process of the python handlers starts again, doubling up to ..._MAX_MS
CHILD_RESTART_MAX_MS: Final = 10_000

# The wire (schemas/PROTOCOL.md).
LABEL_BYTES_MAX: Final = 256  # any name in a message: programs, nodes, schema tags, verbs; names of config are shorter
TOKEN_BYTES_MAX: Final = 4 * KIB  # a hello's token for the user's own authoriser: a signed token with some claims
PIPES_MAX: Final = 1_024  # pipes told in one welcome
SEGMENTS_MAX: Final = 512  # segments of one Cap'n Proto message; a builder makes a handful

# Client library, beyond an operation's wait.
WAITING_BYTES_MAX: Final = 256 * MIB  # records called and not yet answered in one client; above: Busy
BACKOFF_MS: Final = 50  # before a batch that a pipe without leadership did not take is sent again, doubling
LOG_TIME_FRESH_MS: Final = 60_000  # an older log time is asked for anew before it is named as first sending
CLOSE_TIMEOUT_S: Final = 5.0  # closing a pipe waits at most this for operations that are not answered
CLIENT_EVENTS_MAX: Final = 65_536  # pushes and stops that a service has not looked at; above: dropped and counted
ENDINGS_KEPT: Final = 1_024  # outcomes that a service repeats to its sidecar after a reconnect
DRAIN_GRACE_S: Final = 10.0  # handlers running when `serve` is stopped may finish for this long
CLIENT_QUEUE_MESSAGES: Final = 4_096  # ZeroMQ's own queue for what a client sends
ZMQ_HEARTBEAT_MS: Final = 1_000  # ZeroMQ's own pings on a client's socket: they find a dead peer, not a dead program
ZMQ_HEARTBEAT_TIMEOUT_MS: Final = 5_000
RECONNECT_MS: Final = 50  # between two attempts to reach the door, doubling up to ..._MAX_MS
RECONNECT_MAX_MS: Final = 250
GOODBYE_LINGER_MS: Final = 250  # how long a goodbye may take to leave after the socket was closed
RUN_CHECK_MS: Final = 250  # how late a handler's timeout may be noticed; a scan of HELD_SESSIONS_MAX runs costs 5 ms

# Refusals (semantics, "The log decides"): logged like good operations, so no client may live on them at full speed.
REFUSALS_PER_S: Final = 2_000  # refused operations of one client incarnation: 2 % of what a pipe logs in that time
REFUSALS_BURST: Final = 16_384  # and so many at once: a library's whole queue, all refused, is through in 25 of 30 s
REFUSALS_WAIT_MIN_MS: Final = 100  # a held client is not told less: asking again costs as well
REFUSALS_WAIT_MAX_MS: Final = RESEND_MAX_MS  # beyond it an overdraft is forgiven: the library waits no longer
REFUSED_CLIENTS_MAX: Final = 4_096  # clients refused lately whose buckets are kept: 1 MiB, each for at most 24 s

# The checkpoint (mpy6a/checkpoint/FORMAT.md).
SWEEP_RECORD_BYTES: Final = 4 * KIB  # records that come along with a looked-up row; bigger ones are read when asked for
SWEEP_RECORDS_BYTES_MAX: Final = 8 * MIB  # of them kept for the push that follows a sweep: two frames of 1,024 sessions
LOAD_ROWS_MAX: Final = 500  # rows of one statement: 2 MiB at SWEEP_RECORD_BYTES each, 5 ms to read
CHECKPOINT_WRITER_CACHE_BYTES: Final = 16 * MIB  # SQLite's pages in the process that writes, until it rests
CHECKPOINT_READER_CACHE_BYTES: Final = 8 * MIB  # and in the pipe: inner pages of the indexes of 5 M rows
CHECKPOINT_SLACK_BYTES: Final = 64 * MIB  # free pages that the file may keep for what comes next
CHECKPOINT_SHRINK_BYTES: Final = 16 * MIB  # given back to the disk at one checkpoint: 50 ms of moving pages
CHECKPOINT_LOCK_MS: Final = 5_000  # how long a writer waits for a reader's short statement, and the other way round
CHECKPOINT_READER_MS: Final = 50  # the same for a reader that outstayed it once: it is not waited for again

# The checkpoint (mpy6a/checkpoint/FORMAT.md).
CHECKPOINT_BYTES: Final = 64 * MIB  # of log after which the next one begins: restart replays at most about twice that
CHECKPOINT_BYTES_MAX: Final = 256 * MIB  # an operator's choice; clients wait at three times as much
CHECKPOINT_IDLE_BYTES: Final = 1 * MIB  # and after CHECKPOINT_MS this little will do
CHECKPOINT_MS: Final = 60_000
CHECKPOINT_BACKLOG: Final = 3  # times the bytes of one checkpoint above the last: batches get BUSY until it is done ...
CHECKPOINT_BACKLOG_BYTES_MIN: Final = 32 * MIB  # ... but so much comes in while its writer starts
CHECKPOINT_BEHIND_MS: Final = 50  # what such a batch waits before it is sent again
LOG_KEEP_BYTES_MAX: Final = 1024 * 1024 * MIB  # of log below the last checkpoint that an operator may want to keep
CHECKPOINT_REST_MS: Final = 10_000  # without work the process that writes checkpoints ends after this
SETTLE_SESSIONS: Final = 50  # sessions looked at in one slice for leaving memory: 0.14 ms, up to 1 where others compute
SETTLE_SLICES: Final = 10  # of one turn, while they have taken less than ...
SETTLE_NS: Final = 1_000_000
SETTLE_DUE: Final = 64  # and entries of the sweep in such a turn: 2 to 3 ms where all of them come from the file

# The disk's levels (mpy6a/disk.py). Shares keep small disks usable, bytes keep big ones from being refused half empty.
DISK_LOW_PERMILLE: Final = 50  # level 1 below this share of the file system free ...
DISK_LOW_BYTES: Final = 1024 * MIB  # ... but never for more than this: what lives now can grow by some segments
DISK_LOW_BYTES_MAX: Final = 1 << 44  # what an operator may ask to stay free; more is a slip in the unit
DISK_VERY_LOW_PERMILLE: Final = 20  # level 2
DISK_VERY_LOW_BYTES: Final = 256 * MIB  # the log prepares nothing below it: the checkpoint's transaction fits
DISK_RESERVE_PERMILLE: Final = 50
DISK_RESERVE_BYTES: Final = 32 * MIB  # of prepared log: 170,000 Deletes one by one, 800,000 in the library's batches
DISK_RESERVE_BYTES_MAX: Final = 4096 * MIB  # zero-filled ahead: more is a slip in the unit
# One group, its last message, own proposals, and what a message leaves unused at the end of a segment.
DISK_SLACK_BYTES: Final = GROUP_BYTES_MAX + 2 * MESSAGE_BYTES_MAX + 1 * MIB
DISK_GROUP_BYTES: Final = 256 * KIB  # what one drain brings to one write when the log is down to its reserve
DISK_LAST_BYTES: Final = 3 * MIB  # such a group, a batch of refused New with long keys, proposals, operators' words
DISK_RESERVE_BYTES_MIN: Final = 2 * DISK_LAST_BYTES
DISK_LOOK_MS: Final = 1_000  # between two questions to the file system: 2 us each, but a network's may take long
DISK_BUSY_MS: Final = 1_000  # what a batch waits that found the reserve used up
DISK_CHECKPOINT_MS: Final = 2_000  # between two checkpoints while the disk is low: they give segments and pages back

# Questions of operators to a checkpoint (`mpy6a sql`).
SQL_ROWS: Final = 1_000  # rows of an answer unless --limit says otherwise: 20 screens
SQL_ROWS_MAX: Final = 1_000_000
SQL_BYTES_MAX: Final = 16 * MIB  # texts and blobs of an answer; more are cut off, and it says so
SQL_TIMEOUT_MS: Final = 2_000  # so long the journal cannot be emptied: well below CHECKPOINT_LOCK_MS
SQL_TIMEOUT_MAX_MS: Final = 60_000  # the journal grows by the checkpoints of a minute at most
SQL_STUCK_MS: Final = 2_000  # beyond its time; then the process ends, so that the transaction does
SQL_MEMORY_BYTES: Final = 256 * MIB  # for sorting and joining
SQL_VALUE_BYTES_MAX: Final = 2 * SESSION_BYTES_MAX + 1 * MIB  # one value: all records of a session in hexadecimal
SQL_STATEMENT_BYTES_MAX: Final = 1 * MIB
SQL_BLOB_BYTES: Final = 16  # of a blob are shown: an incarnation; `hex(column)` shows all
SQL_TEXT_CHARACTERS: Final = 200  # of a text in a table; JSON has all
EXPORT_PAGE_BYTES: Final = 128 * KIB  # records in one answer to `sessions.export`: 2.5 ms of the pipe's loop
CHECKPOINT_STEP_BYTES_MIN: Final = 1 * MIB  # of log in one transaction on a disk that is nearly full ...
CHECKPOINT_STEP_SHARE: Final = 4  # ... or this part of what is free: journal and file want their share
