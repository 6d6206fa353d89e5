"""The decisions: a routing trace and a policy become one time-free schedule. Nothing here knows a clock."""
