"""Finding what a text names: how relevant images are to it, and whether any is."""
