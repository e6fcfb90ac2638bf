"""A package that adds a score to curate; curate itself does not know it."""
