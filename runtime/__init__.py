"""Real time: back ends that execute a schedule with real memory and real copies (not built yet)."""
