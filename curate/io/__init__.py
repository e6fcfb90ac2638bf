"""Bytes: whole files, checksums, locks, listings. The only package that opens, writes and removes files of a run."""
