"""Tests of mpy6a: unit, property, golden (the inner loop); sim, crash, e2e (tox -e full); smoke; typing."""
