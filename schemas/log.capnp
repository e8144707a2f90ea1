@0xc9b7e25f1d3a4408;
# Bodies of the log's frames that the pipe itself writes (a BATCH frame's body is a wire.capnp Batch, verbatim).
# The frame around them: mpy6a/log/FORMAT.md. Each is one Cap'n Proto message in stream framing. Fields are only
# ever added at the end; numbers are never reused; what changes the meaning of old bytes raises the apply level.

struct Opening {
  wallMs @0 :UInt64;     # the wall clock at opening; log time is set forward to it unless that leaps too far
  uuidHigh @1 :UInt64;   # of the log
  uuidLow @2 :UInt64;
  term @3 :UInt32;       # the new term: one more than the last, or higher after repair and restore
  pipe @4 :UInt16;
  level @5 :UInt16;      # highest apply level this node has
  release @6 :Text;
  node @7 :Text;
}

struct KindPolicy {
  delayMs @0 :UInt64;
  jitterMs @1 :UInt64;
  backoffBaseMs @2 :UInt64;
  backoffCapMs @3 :UInt64;
  idleMs @4 :UInt64;
  silenceMs @5 :UInt64;
  timeoutMs @6 :UInt64;
  id @7 :UInt32;
  concurrency @8 :UInt32;
  barrenLimit @9 :UInt32;
  chargeLimit @10 :UInt32;
  name @11 :Text;
  handler @12 :Text;
  sidecars @13 :List(Text);
  rateMs @14 :UInt64;
  rate @15 :UInt32;             # sessions handed out in rateMs; 0: no limit
  burst @16 :UInt32;
  concurrencyTotal @17 :UInt32; # 0: no limit
  breaker @18 :UInt32;          # 0: none
}

struct Policy {
  leaseMs @0 :UInt64;
  sessionBytesMax @1 :UInt64;
  recordBytesMax @2 :UInt32;
  sessionRecordsMax @3 :UInt32;
  orphans @4 :UInt16;          # 0 refuse, 1 hold, 2 park
  kinds @5 :List(KindPolicy);  # ascending by id
}

# One row: seven data words and two pointers. Each takes one index, and is void when (epoch, change) has moved.
struct Proposal {
  index @0 :UInt64;       # of the session
  change @1 :UInt64;      # the session's `change` that this was decided on
  dueMs @2 :UInt64;       # release, fail: the due time decided outside (Retry-After); maxUInt64: by the policy
  targetHigh @3 :UInt64;  # dispatch: the sidecar incarnation; ownerGone, release: the incarnation that is gone
  targetLow @4 :UInt64;
  term @5 :UInt32;
  epoch @6 :UInt32;
  verb @7 :UInt16;        # ProposalVerb of mpy6a.model
  cause @8 :UInt16;       # Cause of mpy6a.model
  charged @9 :Bool;
  sidecar @10 :Text;      # dispatch: the sidecar's name in the routes
  reason @11 :Text;       # park, fail: for people
}

struct Proposals { proposals @0 :List(Proposal); }

# An operator's word. Each session takes one index, in order; a verb without sessions takes one.
struct Admin {
  untilMs @0 :UInt64;     # pause: log time it ends by itself, 0: never
  verb @1 :UInt16;        # AdminVerb of mpy6a.model
  kind @2 :UInt32;        # pause and resume of a kind
  who @3 :Text;
  reason @4 :Text;
  sessions @5 :List(SessionId);
}

struct SessionId { index @0 :UInt64; term @1 :UInt32; }
