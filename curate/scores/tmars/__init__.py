"""T-MARS: the score of a pair without the text in its picture."""
