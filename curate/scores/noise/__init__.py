"""How probable it is that a label is wrong, or that an image belongs to no class."""
