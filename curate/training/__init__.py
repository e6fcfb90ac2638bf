"""Models that curate trains itself: filters on small sets of good pairs, the pairs of models that losses are compared of."""
