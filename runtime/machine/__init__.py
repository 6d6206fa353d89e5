"""The machine under the runtime: what it is, its cores and sockets, and what else ran while something was timed."""
