"""Fuzzing of everything that reads a file: ``python -m tests.fuzz --cases 100000``; see docs/testing.md."""
