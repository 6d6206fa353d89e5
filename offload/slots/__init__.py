"""The slots of an accelerator and of the tier above storage: what lies where, what is copied, what waits."""
