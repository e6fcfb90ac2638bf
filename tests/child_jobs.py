"""What tests call in processes of their own; light, because each process imports it."""

import os
import time

from curate.errors import UsageError
from curate.execution.engines.local import LocalEngine


def add(tell, a, b):
    tell("adding")
    return a + b, os.getpid()


def refuse(tell, text):
    raise UsageError(text)


def die(tell):
    tell("dying")
    os._exit(9)


def keep_busy(tell):
    """Never end, nor let a worker end."""
    with LocalEngine(2) as engine:
        list(engine.map(sleep, range(4)))


def sleep(_):
    time.sleep(600)
