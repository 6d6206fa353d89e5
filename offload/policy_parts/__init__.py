"""The parts that a policy states: cache, granularity of copies, what tokens skip, drafts; what it sees and decides.

Plain values, checked when they are made. They know no slots and no ops: `offload.decoding` acts on them.
"""
