"""Real time: back ends that execute a schedule with real memory, real copies and real matrix products."""
