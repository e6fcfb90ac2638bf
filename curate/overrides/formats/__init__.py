"""Decisions as files that other tools show and edit: tables, and the formats of tools for looking at samples."""
