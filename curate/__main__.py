"""`curate`, or `python -m curate`, is the command line."""

import gc
import os
import sys
from collections.abc import Sequence

from curate.process import stay_within


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Ctrl-C while it is still being loaded ends it as later on: with 130 and no traceback."""
    stay_within()
    gc.disable()  # until all is loaded (`process.loading`)
    try:
        from curate.cli import main as command_line
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was begun\n")
        sys.stderr.flush()
        os._exit(130)
    command_line(arguments)


if __name__ == "__main__":
    main()
