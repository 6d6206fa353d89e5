"""The layers of a model as tensors: attention, experts, weights."""
