"""The client library: sessions of this process at a pipe, written in the caller's order and resent until
answered."""
