@0xd1f0a6c3b58e7a21;
# The wire of mpy6a, version 1. PROTOCOL.md tells how these are framed, who sends what and when, and what every
# code means. Bytes freeze with the first release: fields are only ever added at the end, numbers never reused.
#
# A packed message is a Header (canonical, always 40 bytes: the last data word is never zero) and then a body of
# `length` bytes: one Cap'n Proto message in stream framing (segment table first) of the struct that `type` names,
# or nothing for types without a body. An envelope, the payload of one ZeroMQ message, is 1..n packed messages.
# Times are in milliseconds, log times in milliseconds since 1970 as the pipe's log counts them.

enum MessageType {
  none @0;          # never sent
  hello @1;         # client or sidecar -> hop: Hello
  welcome @2;       # hop -> client: Welcome, the answer to hello, and again when it changes
  batch @3;         # client or sidecar -> pipe: Batch
  ack @4;           # pipe -> client or sidecar: Ack
  heartbeat @5;     # client or sidecar -> hop: Heartbeat
  pong @6;          # hop -> client: Pong, the answer to heartbeat
  goodbye @7;       # client -> hop: no body; its sessions may be stored at once
  error @8;         # any -> any: Error, about a message that was not taken
  greeting @9;      # pipe -> sidecar, over the dial: Greeting
  sidecarHello @10; # sidecar -> pipe: SidecarHello, the answer to greeting
  push @11;         # pipe -> sidecar, over the dial; sidecar -> attached service: Push
  accepted @12;     # sidecar -> pipe: Accepted, with credit
  stop @13;         # pipe -> sidecar, sidecar -> attached service: Stop
  notice @14;       # pipe -> sidecar -> writer: Notice
  serve @15;        # attached service -> sidecar: Serve
  outcomes @16;     # attached service -> sidecar: Outcomes
  adminRequest @17; # operator -> pipe, on the admin door only: AdminRequest
  adminReply @18;   # pipe -> operator: AdminReply
}

struct Header {
  incarnationHigh @0 :UInt64;  # 128 random bits of one process life, never zero but in an error
                               # that answers what could not be read: of the client or sidecar that made
                               # the message; in an answer (welcome, ack, pong, error, admin reply) and in what a sidecar
                               # hands its service (push, stop, notice) of the one it is for; over the dial the pipe's own
  incarnationLow @1 :UInt64;
  length @2 :UInt32;           # bytes of the body; a multiple of 8
  principal @3 :UInt32;        # set by the sidecar that packs: the sender's uid on its host + 1; 0: not told
  magic @4 :UInt16;            # 0x366d ("m6"), so that the last word is never zero
  version @5 :UInt8;           # 1
  type @6 :UInt8;              # MessageType
  pipe @7 :UInt16;             # the pipe that is meant or speaks; 0: none yet (hello)
  flags @8 :UInt16;            # 0; a receiver refuses flags it does not know
}

# ------------------------------------------------------------------ operations

# One row: four data words and one pointer (40 bytes), for every verb. tests/unit/test_wire.py asserts it.
struct Op {
  index @0 :UInt64;      # of the session; in `new` the request number (rising per client incarnation and pipe)
  epoch @1 :UInt32;      # the epoch the operation was made in; in `new` 0
  seq @2 :UInt32;        # from 1 in each epoch; 0 in `new` and in the endings
  term @3 :UInt32;       # of the session's id; in `new` 0
  flags @4 :UInt16;      # 0
  union {
    new :group { kind @5 :UInt32; record @6 :Data; }          # a null record: no first record
    append :group { record @7 :Data; }
    replace :group { record @8 :Data; }
    touch @9 :Void;
    delete @10 :Void;
    store :group { afterMs @11 :UInt64; }                      # maxUInt64: the kind's delay
    # Endings of an epoch by its target, the pushed sidecar: no seq.
    fail :group { message @12 :Data; }                         # charged
    release :group { retryAfterMs @13 :UInt64; cause @14 :Data; }  # not charged; maxUInt64: back-off, 0: now
    park :group { reason @15 :Data; }
  }
}

# What is rare in an operation, beside the rows; ascending by position, at most one an operation.
struct Extra {
  position @0 :UInt32;   # of the operation in `ops`
  key @1 :Text;          # `new`: at most one live session of the kind has it
  orderKey @2 :Text;     # `new`: sessions of one kind and order key repeat one at a time
  schema @3 :Text;       # `new`: a tag that the handler's `accepts:` is compared with
  trace @4 :Data;        # `new`: W3C traceparent
}

struct Batch {
  number @0 :UInt64;       # rising per client incarnation and pipe, a resend keeps it; echoed in the ack
  mark @1 :UInt64;         # the lowest request number of a `new` that is not answered yet (all below are)
  firstSentMs @2 :UInt64;  # the oldest log time its client had heard when one of these operations was first sent
  ops @3 :List(Op);
  extras @4 :List(Extra);
}

# The answer to a batch. A `new` that is plain OK made session (pipe of the header, term, firstIndex + position).
struct Ack {
  number @0 :UInt64;
  firstIndex @1 :UInt64;    # log index of the batch's first operation; 0 if nothing was logged
  logMs @2 :UInt64;         # log time of the frame, for firstSentMs of later batches
  term @3 :UInt32;
  retryAfterMs @4 :UInt32;  # with BUSY
  code @5 :UInt16;          # not OK: the whole batch was not logged (BUSY, NOT_LEADER, ...)
  durable @6 :Bool;         # false only under `fsync: interval`
  results @7 :List(Result); # only operations that are not plain OK; ascending by position
  message @8 :Text;         # a sentence for people, with `code`
}

struct Result {
  position @0 :UInt32;
  code @1 :UInt16;
  state @2 :UInt16;   # KEY_LIVE: the State of the session that has the key
  index @3 :UInt64;   # OK of a resent `new`, KEY_LIVE: the session's id
  term @4 :UInt32;
  epoch @5 :UInt32;   # FENCED: the session's epoch now, 0 if not known
  message @6 :Text;
}

# ------------------------------------------------------------------ connections

struct Hello {
  versionLow @0 :UInt8;    # protocol versions this side speaks
  versionHigh @1 :UInt8;
  pid @2 :UInt32;          # of the client on its host, 0 if not told
  name @3 :Text;           # for people: the program's name
  token @4 :Data;          # for the user's own authoriser
}

struct Welcome {
  version @0 :UInt8;
  role @1 :Role;
  leaseMs @2 :UInt32;
  logMs @3 :UInt64;
  limits @4 :Limits;
  kinds @5 :List(Kind);
  pipes @6 :List(PipeInfo);  # a pipe names itself; a sidecar those it has heard
  hop @7 :Data;              # 16 bytes: another value, and whoever answers knows nothing of you (a pipe: its incarnation)
  enum Role { pipe @0; sidecar @1; admin @2; }
}

struct Limits {
  recordBytes @0 :UInt32;
  sessionBytes @1 :UInt32;
  sessionRecords @2 :UInt32;
  messageBytes @3 :UInt32;
  messageOperations @4 :UInt32;
  envelopeBytes @5 :UInt32;
}

struct Kind { id @0 :UInt32; name @1 :Text; delayMs @2 :UInt64; idleMs @3 :UInt64; silenceMs @4 :UInt64; timeoutMs @5 :UInt64; }

struct PipeInfo { term @0 :UInt32; pipe @1 :UInt16; live @2 :Bool; logMs @3 :UInt64; }

struct Heartbeat {
  alive @0 :Data;   # incarnations (16 bytes each, high word first, little endian words) this sidecar heard; a client: empty
  gone @1 :Data;    # incarnations that said goodbye or are known dead
}

struct Pong { logMs @0 :UInt64; term @1 :UInt32; }

struct Error {
  number @0 :UInt64;   # of the batch or request, if it could be read
  code @1 :UInt16;
  type @2 :UInt8;      # MessageType of the message that was not taken
  retryAfterMs @3 :UInt32;
  message @4 :Text;
}

# ------------------------------------------------------------------ pushes

struct Greeting {
  dial @0 :UInt64;     # rising with each connection that this leader makes to this sidecar
  term @1 :UInt32;     # the leader's term
  leaseMs @2 :UInt32;
  logMs @3 :UInt64;
  name @4 :Text;       # the sidecar that the pipe meant to dial
}

struct SessionEpoch { index @0 :UInt64; term @1 :UInt32; epoch @2 :UInt32; }

struct KindCredit { sessions @0 :UInt64; bytes @1 :UInt64; kind @2 :UInt32; }  # totals granted in this dial

struct SidecarHello {
  dial @0 :UInt64;
  term @1 :UInt32;
  name @2 :Text;
  held @3 :List(SessionEpoch);    # running here, or with an unanswered outcome
  credit @4 :List(KindCredit);
}

struct Attempt {
  startedMs @0 :UInt64;
  durationMs @1 :UInt64;
  epoch @2 :UInt32;
  outcome @3 :UInt16;   # AttemptOutcome of mpy6a.model
  charged @4 :Bool;
  sidecar @5 :Text;
  message @6 :Text;
}

struct RepeatData {
  index @0 :UInt64;
  fence @1 :UInt64;
  number @2 :UInt64;      # of this push in its dial, from 1; all parts carry it
  createdMs @3 :UInt64;
  term @4 :UInt32;
  epoch @5 :UInt32;
  kind @6 :UInt32;
  repeats @7 :UInt32;
  part @8 :UInt16;        # 0 .. parts - 1; records of the parts are joined in order
  parts @9 :UInt16;       # at least 1
  cancel @10 :Bool;
  records @11 :List(Data);
  attempts @12 :List(Attempt);  # in part 0
  key @13 :Text;
  orderKey @14 :Text;
  schema @15 :Text;
  trace @16 :Data;
}

struct Push {
  dial @0 :UInt64;
  targetHigh @1 :UInt64;  # the sidecar incarnation that is meant; another one drops the message
  targetLow @2 :UInt64;
  term @3 :UInt32;        # the leader's
  sessions @4 :List(RepeatData);
}

struct Accepted {
  dial @0 :UInt64;
  through @1 :UInt64;     # every push up to this number was taken
  term @2 :UInt32;
  credit @3 :List(KindCredit);
}

struct Stop {
  dial @0 :UInt64;
  term @1 :UInt32;
  code @2 :UInt16;        # FENCED or GONE: whose epoch it is no longer
  sessions @3 :List(SessionEpoch);
}

struct Notice {
  index @0 :UInt64;
  remainingMs @1 :UInt64; # until the silence or idle limit ends the epoch
  term @2 :UInt32;
  epoch @3 :UInt32;
}

struct Serve {
  kinds @0 :List(UInt32);
  concurrency @1 :UInt32; # sessions this service wants at a time, all these kinds together; 0: no more (drain)
}

struct Ending {
  index @0 :UInt64;
  retryAfterMs @1 :UInt64; # release: maxUInt64 back-off, 0 now
  term @2 :UInt32;
  epoch @3 :UInt32;
  outcome @4 :UInt16;      # AttemptOutcome of mpy6a.model: decided, fail, release, park
  message @5 :Text;
}

struct Outcomes { endings @0 :List(Ending); }

# ------------------------------------------------------------------ operators

struct AdminRequest { number @0 :UInt64; verb @1 :Text; arguments @2 :Text; }   # arguments and body: JSON objects
struct AdminReply { number @0 :UInt64; code @1 :UInt16; message @2 :Text; body @3 :Text; }
