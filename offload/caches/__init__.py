"""What a cache keeps and gives up: evictions, admissions, their ranks, and the replay of a trace through them.

Experts are keys and capacities are counts: no bytes, no slots (`offload.slots`), no ops, no clock.
"""
