"""The decisions: a routing trace and a policy become one time-free schedule. Nothing here knows a clock.

A *policy* (`policy`) is put together from `policy_parts`, `predictors`, `prefetching` and `answers`; `policies` are
those that were published, `own_policies` a user's own. `placing` says where a model's parts live for the whole run,
`caches` which experts stay resident, counted in experts, and `slots` in which bytes of HBM or host memory they lie.
`decoding` asks all of them, token by token, and writes ops (`ops`, `work`) into a `schedule`; `fast` is its
compiled twin. A `timeline` is a schedule with times, from a simulator or a device, and `metrics` are read off it.
"""
