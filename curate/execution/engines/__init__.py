"""Engines: what maps a function over shards."""
