"""Concepts: k-means over embeddings and how complex each concept is. Pure: arrays in, arrays out."""
