"""The neuron set: neurons with labels and values, their files, card and repository."""

from .neuron_set import NeuronSet

__all__ = ["NeuronSet"]
