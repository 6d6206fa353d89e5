"""Where parts of a model live and run, and what that takes: host, accelerator, storage.

A placement holds for a whole run: attention, dense FFNs and experts by layer. Experts that a policy moves during a
run are no part of it; they wait in a tier (`tiers`) and use what HBM the placement leaves (`footprint`).
"""
