"""Scores that stand in files of the user."""
