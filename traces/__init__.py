"""The workload: model architectures and routing traces, from real recordings or synthesised.

Nothing here knows a policy, a machine or a clock. `foundation` is what every room of the project stands on.
"""
