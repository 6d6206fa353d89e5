"""One question: a model, a machine, a routing trace and a policy become a schedule, its times and its metrics."""
