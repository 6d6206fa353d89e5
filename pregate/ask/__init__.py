"""One question: a model, a machine, a routing trace and a policy become a schedule, its times and its metrics.

Several policies on one machine are `comparison`; many machines or settings are `pregate.sweeps`, whole requests
`pregate.card`.
"""
