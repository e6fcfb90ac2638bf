"""How much each kept sample counts. Pure: arrays in, arrays out."""
