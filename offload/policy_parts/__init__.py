"""The parts that a policy states: cache, granularity of copies, what tokens skip, drafts; what it sees and decides."""
