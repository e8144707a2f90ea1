"""One file for each file of the source: what it promises to its caller."""
