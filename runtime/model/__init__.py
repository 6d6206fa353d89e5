"""The layers of a model as tensors: attention, experts, weights, and the passes that they run on."""
