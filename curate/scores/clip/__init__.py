"""Scores of pairs by a further CLIP model, beside the model that concepts are made of."""
