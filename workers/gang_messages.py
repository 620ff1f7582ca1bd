"""Where the ranks of a gang meet."""

import socket
from dataclasses import dataclass

import ray.util


@dataclass(frozen=True, kw_only=True)
class Rendezvous:
    """Address at which rank 0 waits for its peers."""

    host: str
    port: int


def own_rendezvous() -> Rendezvous:
    """A port of this node that is free at the moment; another process may take it before rank 0
    does, so that joining may fail and has to be tried again."""
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        return Rendezvous(host=host, port=probe.getsockname()[1])
