"""Patch -> score: jobs, their records, and the trusted evaluation."""
