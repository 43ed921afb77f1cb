"""Command-line flags and recipes."""
