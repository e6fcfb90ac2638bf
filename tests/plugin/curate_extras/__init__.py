"""A package that adds a score and a selection method to curate; curate itself does not know it."""
