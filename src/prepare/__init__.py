"""Data sets into metadata folders: one file a source, and what all of them share."""
