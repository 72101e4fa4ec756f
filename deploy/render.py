"""Write the configuration of the Envoy that balances requests over the servers of a cluster.

It is made by the template of ``delugeserve serve``, with addresses from DNS instead of files::

    python deploy/render.py                               # deploy/kubernetes/base/envoy.yaml
    python deploy/render.py --servers models.example.com  # for another cluster, to standard output
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from delugeserve.serving.front import clusters, listeners, tls
from delugeserve.serving.front.config import DnsRouting, envoy_config
from delugeserve.serving.front.security import Security
from delugeserve.serving.front.settings import MIB, FrontSettings, Limits

HERE = Path(__file__).parent
TARGET = HERE / "kubernetes" / "base" / "envoy.yaml"
SECRET = TARGET.with_name(f"secret-{tls.SERVER}.json")
SERVERS = "delugeserve-server"  # the headless Service of kubernetes/base/services.yaml
HTTP, GRPC, HEALTH, ADMIN = 8000, 8001, 8003, 9901
TLS = Path("/etc/delugeserve/tls")
KEYS = Path("/etc/delugeserve/keys/keys.txt")
SECURITY = Security(certificate=TLS / "tls.crt", private_key=TLS / "tls.key", keys=KEYS)
HEADER = """\
# Envoy in front of the servers, from the template of delugeserve serve by deploy/render.py.
# Change those two instead of this file; a test compares them.
"""


class _Dumper(yaml.SafeDumper):
    """Writes long strings, such as Lua code, as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_Dumper.add_representer(str, _represent_text)


def cluster_config(servers: str = SERVERS) -> dict[str, Any]:
    """Return the configuration.

    Args:
        servers: host name with an address for each ready server.
    """
    settings = FrontSettings(
        address="0.0.0.0",  # noqa: S104 - clients are elsewhere
        grpc_port=GRPC,
        http_port=HTTP,
        gateway_port=None,
        security=SECURITY,
        limits=Limits(memory_bytes=768 * MIB),  # of a container with 1 GiB
        access_log=Path("/dev/stdout"),
    )
    config = envoy_config(settings, DnsRouting(servers, GRPC, HTTP))
    # preStop drains through the admin interface, which only the pod itself reaches. Kubernetes and
    # Prometheus ask another port, which answers a few GET requests.
    admin = clusters.socket_address("127.0.0.1", ADMIN)
    config["admin"] = {"address": admin}
    health = listeners.stats_listener(HEALTH)
    health["address"] = clusters.socket_address("0.0.0.0", HEALTH)  # noqa: S104
    config["static_resources"]["listeners"].append(health)
    config["static_resources"]["clusters"].append(clusters.local_cluster(clusters.ADMIN, admin))
    return config


def render(servers: str = SERVERS) -> str:
    """Return the configuration as YAML."""
    body = yaml.dump(cluster_config(servers), Dumper=_Dumper, sort_keys=False, width=100)
    return HEADER + body


def render_secret() -> str:
    """Return the file that names the certificate, which Envoy takes anew when it is renewed."""
    return json.dumps(tls.secret(tls.SERVER, SECURITY, watched=True), indent=2) + "\n"


def main() -> None:
    """Write the file, or print the configuration for other servers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--servers", metavar="HOST", help="host name with an address for each ready server"
    )
    servers = parser.parse_args().servers
    if servers:
        sys.stdout.write(render(servers))
    else:
        TARGET.write_text(render(), encoding="utf-8")
        SECRET.write_text(render_secret(), encoding="utf-8")


if __name__ == "__main__":
    main()
