"""WebDataset tars, read with a counting reader of our own."""
