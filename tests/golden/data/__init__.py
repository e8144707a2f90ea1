"""Data directories of pipes, frozen as each release wrote them."""
