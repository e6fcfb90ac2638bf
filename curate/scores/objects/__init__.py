"""Objects in boxes: how many an image has, and the vector of each."""
