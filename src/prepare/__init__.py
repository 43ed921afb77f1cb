"""Metadata folders from data sets: one module per source, which reads it into a ``Collected``, and what they share."""
