"""What every op of a schedule touches, on no device: passes, slots, buffers, order, and proof that nothing races."""
