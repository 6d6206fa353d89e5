"""Virtual time: interpreters that give a schedule its timeline on any machine that can be described.

`definition` (SimPy) says what is right. `recurrence` is the same for FIFO lanes, op by op; `streamed` for a schedule
that arrives part by part, `batched` for many machines at once. `events` has every mode of `modes`; `live_issue` is
of runs that are decided as they go. `serving` is of requests that queue, by the times of passes alone. `explain` says
what a time is made of. Nothing here decides what is executed.
"""
