"""What the HTTP port counts, as Prometheus families."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class HttpCollector(Collector):
    """Collects from the port as it is at the moment. Statuses are ours, never a caller's text."""

    def __init__(
        self, responses: Callable[[], Mapping[int, int]], connections: Callable[[], int]
    ) -> None:
        """responses: how many, by status."""
        self._responses = responses
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        responses = CounterMetricFamily(
            "penstock_http_responses", "Answers on the HTTP port by status.", labels=["status"]
        )
        for status, count in sorted(self._responses().items()):
            responses.add_metric([str(status)], count)
        yield responses
        yield GaugeMetricFamily(
            "penstock_http_connections",
            "Connections to the HTTP port.",
            value=self._connections(),
        )
