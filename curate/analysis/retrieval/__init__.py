"""Retrieval on a run: what texts are judged against, subsets for names, and names of concepts."""
