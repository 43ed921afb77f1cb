"""Tagging many pictures: which ones, with which words, and what is written."""
