"""Trajectories and runs -> replay, tables, pages."""
