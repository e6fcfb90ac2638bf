"""Vectors for samples: decoding, CLIP models, and vectors the user already has."""
