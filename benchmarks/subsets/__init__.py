"""Pools with known faults, subsets of them, and what a model trained on a subset is worth."""
