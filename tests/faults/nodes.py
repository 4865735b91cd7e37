"""A Ray cluster of several nodes on this machine, which does what it is told by lines of JSON.

It begins as a head that does no work, and prints `{"address": ..., "dashboard": ...}`. Then `{"add": NAME, ...}` adds a
node with these resources and prints `{"node": ID}`; `{"lose": NAME}` kills a node and prints `{}`. It ends with its
standard input.
"""

import json
import sys

from ray.cluster_utils import Cluster

PATIENCE_S = 120
ANY_PORT = {"dashboard_agent_listen_port": 0}
"""Of a node's agent, to which jobs are sent: the usual one may be taken by another cluster on this machine."""
TRIES = 3
"""A busy machine is slower than the half minute that Ray waits for a node."""


def added(**resources):
    for number in range(1, TRIES + 1):
        try:
            return cluster.add_node(**resources, **ANY_PORT)
        except Exception as error:  # Of no class of its own.
            if "timed out" not in str(error) or number == TRIES:
                raise


head = ANY_PORT | {"num_cpus": 0, "include_dashboard": "dashboard" in sys.argv, "dashboard_port": 0}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = {}
print(json.dumps({"address": cluster.address, "dashboard": cluster.head_node.webui_url}), flush=True)
for line in sys.stdin:
    told = json.loads(line)
    if "add" in told:
        name = told.pop("add")
        nodes[name] = added(**told)
        cluster.wait_for_nodes(PATIENCE_S)
        print(json.dumps({"node": nodes[name].node_id}), flush=True)
    else:
        cluster.remove_node(nodes.pop(told["lose"]), allow_graceful=False)
        print("{}", flush=True)
cluster.shutdown()
