"""What a subset is worth: one model trained on it, on random draws of the same size, and on everything."""
