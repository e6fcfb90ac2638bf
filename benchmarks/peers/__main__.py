"""Make the environments of `requirements-peers.txt`, and say which there are."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from peers import interpreter, make, requirements

for name, lines in requirements().items():
    make(name)
    for line in lines:
        reason = interpreter(line.partition("=")[0])[1]
        print(f"{line}: {reason or 'ready'}")
