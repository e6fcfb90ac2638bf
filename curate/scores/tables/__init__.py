"""Tables of scores: columns of other families are read here, and the tables of a family written."""
