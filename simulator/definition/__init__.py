"""The definition: schedules executed on SimPy, in virtual time."""
