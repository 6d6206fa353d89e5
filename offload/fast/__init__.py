"""The decode loop compiled: the same schedule, digest for digest. `offload.decode` is the definition."""
