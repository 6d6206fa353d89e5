"""The decode loop compiled: the same schedule, digest for digest. `offload.decode` is the definition.

Each kernel is the twin of a room or a module that its first line names. A policy that it cannot express runs in
Python.
"""
