"""Sweeps: one call prices a grid, or a sample, of machines, models, workloads and policies.

Decisions are taken once for all points that share them; only the machine's numbers are vectorised.
"""
