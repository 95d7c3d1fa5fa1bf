"""Steering: a model with neuron sets attached, and which label holds at which generated token."""
