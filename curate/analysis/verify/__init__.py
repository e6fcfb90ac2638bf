"""The invariants of a finished run: what must hold of its tables, alone and of one with another."""

from curate.analysis.verify.invariants import violations_of
from curate.analysis.verify.stage_tables import Tables

__all__ = ["Tables", "violations_of"]
