"""The report page. Pure: frames in, HTML out."""
