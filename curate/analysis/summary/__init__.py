"""What the stage `report` gathers from a run for its page: one file per kind of facts."""
