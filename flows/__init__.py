"""Prefect flows around the pipeline; installed as `curate.flows` (see README.md here)."""
