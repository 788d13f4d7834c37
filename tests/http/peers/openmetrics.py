"""Reads OpenMetrics text from standard input as Prometheus's own client does, which refuses what is not well formed."""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

FAMILIES = {
    "istio_requests": "counter",
    "istio_request_duration_milliseconds": "histogram",
    "istio_request_bytes": "histogram",
    "istio_response_bytes": "histogram",
    "istio_tcp_connections_opened": "counter",
    "ringgate_ready": "gauge",
}

found = {f.name: f for f in text_string_to_metric_families(sys.stdin.read())}
for name, kind in FAMILIES.items():
    assert found[name].type == kind, f"{name} is a {found[name].type}"
    assert found[name].samples, f"{name} has no samples"
print("all is well")
