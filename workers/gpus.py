"""The GPUs of a Ray cluster."""

import ray


def num_gpus_on(node_resource: str = "") -> float:
    """GPUs of the nodes that are up and have a custom resource ("": of all nodes)."""
    found = (node["Resources"] for node in ray.nodes() if node["Alive"])
    numbers = (
        amounts.get("GPU", 0.0)
        for amounts in found
        if not node_resource or amounts.get(node_resource)
    )
    return float(sum(numbers))
