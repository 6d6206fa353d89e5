"""Tables of measurements in the project's own language: predicted row by row, and scored beside rules of thumb."""
