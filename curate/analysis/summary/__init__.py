"""One summary of a run, made in one pass over its parts: what `inspect`, the report, a notebook and Prefect show."""
