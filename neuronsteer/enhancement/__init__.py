"""Enhancement: fine-tune only the weights of selected neurons, and keep what they learned.

`enhance(model, neurons)` freezes a model except for the rows and columns that belong to the neurons
of a set, and returns a model that `transformers.Trainer` trains like any other. What was learned is
a small artifact of its own: it can be saved, loaded onto the model again, or merged into it.
"""

from .model import Enhanced, enhance

__all__ = ["Enhanced", "enhance"]
