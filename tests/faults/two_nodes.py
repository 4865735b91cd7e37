"""A Ray cluster of two nodes on this machine; the second, which does all the work, is lost when a line comes in.

Prints the cluster's address, waits for a line, loses the node, prints "lost", and ends with its standard input.
"""

import sys

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
doomed = cluster.add_node(num_cpus=4)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(doomed, allow_graceful=False)
cluster.add_node(num_cpus=4)
print("lost", flush=True)
sys.stdin.read()
cluster.shutdown()
