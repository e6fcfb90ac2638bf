"""Two machines of a Ray cluster on this one: `python ray_cluster.py`, an address on stdout, commands on stdin.

`lose` ends the second machine at once, `add` brings one, `end` stops all; each answers with one line of JSON.
"""

import json
import os
import sys

from ray.cluster_utils import Cluster

SMALL = {"num_cpus": 1, "object_store_memory": 80_000_000}


def main(folder):
    # `temp_dir` would not do: Cluster notes its address in the default folder, and takes it for granted.
    os.environ["RAY_TMPDIR"] = folder
    head = SMALL | {"include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    others = [cluster.add_node(**SMALL)]
    tell(cluster.address)
    for line in sys.stdin:
        if line.strip() == "lose":
            cluster.remove_node(others.pop(), allow_graceful=False)
        elif line.strip() == "add":
            others.append(cluster.add_node(**SMALL))
        tell(line.strip())
        if line.strip() == "end":
            break
    cluster.shutdown()


def tell(what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
