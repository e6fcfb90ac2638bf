"""The laws of a finished run: what must hold of its tables, alone and of one with another."""

from curate.laws.check import broken_laws
from curate.laws.tables import Tables

__all__ = ["Tables", "broken_laws"]
