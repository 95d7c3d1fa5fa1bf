"""Keeping a model in one language: `keeper.py`, and the parts that it is made of."""
