"""A Ray cluster of several nodes on this machine, in a process of its own: `python cluster_for_tests.py`.

It prints the cluster's address; a line on stdin kills a node, the end of stdin ends the cluster. So nothing of Ray's
clients of a cluster that is gone is left in the tests' own process.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def main() -> None:
    from ray.cluster_utils import Cluster

    # A node that is gone is noticed after five checks, 3 s apart by default; one that is slow has 10 s for each.
    often = {"health_check_period_ms": 500}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": often}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1)
    lost = cluster.add_node(num_cpus=1)
    print(f"address {cluster.address}", flush=True)
    for _ in sys.stdin:
        cluster.remove_node(lost, allow_graceful=False)
    cluster.shutdown()


@contextmanager
def cluster_of_two() -> Iterator[tuple[str, Callable[[], None]]]:
    """A cluster of two nodes of one CPU each: its address, and what kills one of them."""
    command = [sys.executable, __file__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin = process.stdin

    def kill_one() -> None:
        stdin.write("kill\n")
        stdin.flush()

    try:
        address = next(line.split()[1] for line in process.stdout if line.startswith("address "))
        yield address, kill_one
    finally:
        stdin.close()
        process.wait(60)


if __name__ == "__main__":
    main()
