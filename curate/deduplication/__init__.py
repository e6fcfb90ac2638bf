"""Near-duplicates inside a concept. Pure: arrays in, arrays out."""
