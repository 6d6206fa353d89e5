"""The decode loop compiled: the same schedule, digest for digest. `offload.decode` is the definition.

Here is what says which policies it can express, fills the arrays and calls; `kernels/` is what is compiled. A policy
that it cannot express runs in Python.
"""
