"""Every error curate raises on purpose, and the exit code the command line gives it.

::

    CurateError                    1   something failed that only the data could tell
    |-- UsageError                 2   wrong flag, unknown column, a path that matches nothing
    |   `-- RecipeError            2   a setting that is unknown, missing or out of its range
    |-- SourceError                1   an input file that cannot be read as what it claims to be
    |-- EmbeddingError             1   vectors of the wrong shape, length or number; all unusable
    |-- ModelError                 1   a model or its weights cannot be had
    |-- BudgetError                1   fewer eligible samples than asked for, or a broken sum
    |-- RunError                   1   the run folder: locked, damaged, or made from something else
    |-- ResourceError              1   the machine gives no memory, thread, process or open file
    |-- TimeLimitError             1   a stage took longer than `limits.time` allows, and was ended
    `-- UnusableLimitError         3   the run finished, but more samples were unusable than allowed

A message names the thing, the rule and the value: ``select.keep must be in (0, 1], got 1.4``.
"""

__all__ = [
    "BudgetError",
    "CurateError",
    "EmbeddingError",
    "ModelError",
    "RecipeError",
    "ResourceError",
    "RunError",
    "SourceError",
    "TimeLimitError",
    "UnusableLimitError",
    "UsageError",
]


class CurateError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(CurateError):
    """The request itself is wrong: a flag, a column name, a path that matches nothing."""

    exit_code = 2


class RecipeError(UsageError):
    """A setting of the recipe is unknown, missing or outside its range."""


class SourceError(CurateError):
    """An input file cannot be read as what it claims to be."""


class EmbeddingError(CurateError):
    """Vectors have the wrong shape, length or number, or none is usable."""


class ModelError(CurateError):
    """A model, its weights or its tokenizer cannot be had."""


class BudgetError(CurateError):
    """Fewer samples are eligible than asked for, or an allocation does not add up."""


class RunError(CurateError):
    """The run folder is locked, damaged, or was made from something else."""


class ResourceError(CurateError):
    """The machine gives no memory, thread, process or open file: no fault of the data, which is not judged by it."""


class TimeLimitError(CurateError):
    """A stage took longer than `limits.time` allows and was ended; the next run goes on with what it finished."""


class UnusableLimitError(CurateError):
    """The run finished, but more samples were unusable than `limits` allows."""

    exit_code = 3
