"""Predicted, then run, then compared: how right the model is, and where it is not.

Nothing here may look at a measurement before the prediction of it is written down.
"""
