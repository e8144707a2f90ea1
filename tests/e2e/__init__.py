"""Real processes, sockets and disk."""
