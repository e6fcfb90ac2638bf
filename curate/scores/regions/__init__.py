"""Boxes that stand in a column of the source, and the pictures they are in: what scores of regions share."""
