"""The demo: two real services, faults inside them, kills of everything, and an audit of the promise."""
