"""Whether the model of a run can be had: the hub of models, and what was downloaded from it."""
