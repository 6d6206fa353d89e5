"""Tables of measurements in the project's own language: predicted row by row, and scored beside rules of thumb.

What others published or a user measured, as rows; what this machine runs under a prediction is `pregate.validation`.
"""
