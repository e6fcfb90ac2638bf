"""Input formats, one file each; see `base.py` for what a format offers."""
