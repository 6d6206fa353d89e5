"""The slots of an accelerator and of the tier above storage: what lies where, what is copied, what waits.

Bytes and readers, while a schedule is written. Which expert stays is asked of `offload.caches`, never decided here.
"""
