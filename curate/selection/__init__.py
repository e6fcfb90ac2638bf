"""How many samples to keep, and which. Pure: arrays in, arrays out."""
