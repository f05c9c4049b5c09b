"""Scores -> new ideas: the archive of what was tried, selection, ideation, and the loop that runs a batch."""
