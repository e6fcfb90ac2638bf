"""The stages of the pipeline: each reads files, calls pure code, writes files, marks itself done."""
