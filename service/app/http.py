"""From settings to the HTTP port: its pages, its limits, its TLS."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from service.app.network import tls_of
from service.config import Settings
from service.rest.app import AppLimits, RestApp
from service.rest.call import Asker
from service.rest.guard import GuardLimits
from service.rest.infer_page import InferPage
from service.rest.metrics import HttpCollector
from service.rest.pages import add_probes, add_protocol
from service.rest.port import HttpPort
from service.rest.routes import Routes
from service.rpc.dispatch import Dispatcher
from service.rpc.infer import InferService
from service.rpc.restrict import Restrictions


def make_http_port(
    settings: Settings,
    dispatcher: Dispatcher,
    infer: InferService,
    restrictions: Restrictions,
    registry: CollectorRegistry,
    is_draining: Callable[[], bool],
) -> HttpPort:
    """Return the port that the settings ask for.

    dispatcher: answers all but ModelInfer. infer: for this port alone.
    Raises SettingsError if the address cannot be bound.
    """
    ask = Asker(dispatcher.request, dispatcher.left, restrictions).ask
    routes = Routes()
    add_probes(routes, ask, registry)
    if settings.rest:
        add_protocol(routes, ask, InferPage(infer, restrictions, settings.max_concurrent_calls))
    # Without REST nothing is served that needs TLS: probes and scrapes, as ever.
    tls = tls_of(settings) if settings.rest else None
    limits = AppLimits(
        body_bytes=settings.max_message_mib << 20,
        received_bytes=settings.max_received_mib << 20,
        asks_certificate=tls is not None and tls.client_ca is not None,
        compresses=settings.compression == "gzip",
    )
    app = RestApp(routes, limits, is_draining)
    port = HttpPort(
        settings.host,
        settings.http_port,
        app,
        GuardLimits(
            head_bytes=settings.max_header_kib << 10,
            head_s=settings.handshake_timeout,
            unread_s=settings.send_timeout or None,
            connections=settings.max_connections,
        ),
        idle_s=settings.connection_idle or None,
        handshake_s=settings.handshake_timeout,
        tls=tls,
    )
    registry.register(HttpCollector(app.responses.copy, lambda: port.connections))
    return port
