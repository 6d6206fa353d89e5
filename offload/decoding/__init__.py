"""The decode loop: the ops of a step of a trace, part by part."""
