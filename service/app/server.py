"""The server: what is started in which order, and stopped in which."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from service.app.http import make_http_port
from service.app.loader import ModelLoader
from service.app.network import make_transport
from service.app.watcher import Watcher
from service.config import Settings
from service.errors import LoadError, SettingsError
from service.inference.model import Model
from service.lifecycle.control import ModelControl
from service.lifecycle.manager import Manager
from service.lifecycle.states import State
from service.observability.logs import log_control
from service.observability.metrics import ServerCollector, Source
from service.observability.tracing import Tracer
from service.repository.layout import ModelSource, Repository
from service.rpc.dispatch import Dispatcher
from service.rpc.forward import Forward
from service.rpc.health import HealthService
from service.rpc.infer import InferService
from service.rpc.log_settings import LogService
from service.rpc.options import InferOptions
from service.rpc.regions import Regions
from service.rpc.repository import RepositoryService
from service.rpc.restrict import Restrictions
from service.rpc.server_info import ServerInfo
from service.rpc.shared_memory import EXTENSIONS as SHARED_MEMORY
from service.rpc.shared_memory import SharedMemoryService
from service.rpc.traces import TraceService
from service.runtime.cuda_memory import open_cuda_memory, refuse_cuda_memory

_LOG = logging.getLogger(__name__)
_JOIN_S: Final = 5.0


class Server:
    """One server. `start` and `stop` are called once each, from one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        is_explicit = settings.model_control == "explicit"
        root = Path(settings.repository)
        self._repository = Repository(root, settings.model_name, may_be_empty=is_explicit)
        self._loader = ModelLoader(settings)
        self.manager: Manager[Model] = Manager(
            self._loader.read_config, self._loader.load, settings.load_timeout
        )
        self._regions = Regions(
            enabled=settings.allow_client_shm,
            limit=settings.max_shm_regions,
            max_read_bytes=settings.max_message_mib << 20,
        )
        self._tracer = Tracer(settings.trace_file, self.manager.invalidate)
        restrictions = Restrictions(settings.restrict)
        options = InferOptions(
            stream_state=settings.stream_state,
            forward=Forward(settings.forward_headers) if settings.forward_headers else None,
            restrictions=restrictions,
            tracer=self._tracer,
        )
        deadline_s = settings.default_deadline
        self._infer = InferService(self.manager, deadline_s, self._regions, options)
        self._health = HealthService(
            self.manager.is_ready,
            self.manager.model_names,
            lambda name: bool(self.manager.ready_versions(name)),
        )
        self.manager.on_change(self._health.changed)
        self.control = ModelControl(
            self._repository, self.manager, self._loader.read_config, self._loader.plan
        )
        services = (
            ServerInfo(
                self.manager,
                settings.server_name,
                lambda: self._health.draining,
                SHARED_MEMORY if settings.allow_client_shm else (),
            ),
            RepositoryService(
                self.control,
                is_explicit=is_explicit,
                hidden=f"{root.parent if root.is_file() else root}/",
            ),
            SharedMemoryService(
                self._regions,
                refuse_cuda_memory if settings.device == "cpu" else open_cuda_memory,
            ),
            TraceService(self._tracer, self.manager),
            LogService(log_control()),
        )
        self.dispatcher = Dispatcher(
            services,
            self._health,
            self._infer,
            reflection=settings.reflection,
            restrictions=restrictions,
        )
        self._transport = make_transport(settings, self.dispatcher.methods)
        # The engine takes requests from any thread; what reads them is for one thread alone.
        self._rest = InferService(
            self.manager, deadline_s, self._regions, options, unknown=self._infer.unknown
        )
        self._http = make_http_port(
            settings,
            self.dispatcher,
            self._rest,
            restrictions,
            self._registry(),
            self._is_draining,
        )
        self._watcher: Watcher | None = None
        self.addresses: list[str] = []

    @property
    def http_address(self) -> str:
        """Return HOST:PORT of the HTTP port."""
        return self._http.address

    def start(self, stops: Callable[[], bool] = lambda: False) -> None:
        """Listen, then load the models; health says NOT_SERVING until they are warm.

        stops: asked between models; what is not loaded then is left out.
        Raises SettingsError if an address cannot be bound, RepositoryError if there is no
        repository, LoadError if not a single model can be served.
        """
        sources = self._chosen(self._repository.scan())
        self.addresses = list(self._transport.start())
        self._http.start()
        self.dispatcher.start(self._transport)
        self.manager.announce(sources)
        self._apply(sources, lambda: not stops())
        if stops():
            return
        if self._settings.poll_interval_s:
            self._watcher = Watcher(self._repository, self._apply, self._settings.poll_interval_s)
            self._watcher.start(sources)
            return
        self.control.note(sources)
        if sources and not self.manager.servables():
            raise LoadError(
                "no model can be served: "
                + "; ".join(f"{status.model}: {status.reason}" for status in self.manager.index())
            )

    def stop(self, hurry: Callable[[float], bool]) -> bool:
        """Drain and stop. True if every accepted request was answered.

        hurry: waits for so many seconds, and returns True at once when there is no time left.
        """
        deadline = time.monotonic() + self._settings.grace
        self._health.draining = True
        self._health.changed()
        if self._settings.drain_delay:
            _LOG.info("draining: NOT_SERVING for %.1f s", self._settings.drain_delay)
            hurry(min(self._settings.drain_delay, self._settings.grace))
        self.dispatcher.drain()
        self._rest.draining = True
        if self._watcher is not None:
            self._watcher.stop(0.0)
        clean = self._transport.drain(max(0.0, deadline - time.monotonic()))
        clean = self._http.drain(max(0.0, deadline - time.monotonic())) and clean
        if self._watcher is not None:  # once more: its load may have ended meanwhile, or never will
            self._watcher.stop(max(0.0, min(_JOIN_S, deadline - time.monotonic())))
        clean = self.manager.close(max(0.1, deadline - time.monotonic())) and clean
        self.abort()
        return clean

    def abort(self) -> None:
        """Stop at once: what is in progress is cut off."""
        self._transport.close()
        self.dispatcher.join(_JOIN_S)
        self._http.close()
        self._regions.close()
        self.control.close()
        self._tracer.close()

    def reload_tls(self) -> None:
        """Read the TLS files again; the log says what came of it."""
        if not self._settings.tls_certificate:
            _LOG.info("SIGHUP: there are no TLS files to read again")
            return
        try:
            self._transport.reload_tls()
            self._http.reload_tls()
        except SettingsError as error:
            _LOG.error("SIGHUP: %s; the files from before stay in use", error)
        else:
            _LOG.info("SIGHUP: TLS files are read again and in use for new connections")

    def failures(self) -> list[str]:
        """Return a line for each model version that is not served and should be."""
        return [
            f"{status.model}: {status.reason}"
            for status in self.manager.index()
            if status.state is State.FAILED
        ]

    def _chosen(self, sources: list[ModelSource]) -> list[ModelSource]:
        """Return what is loaded at start. Raises SettingsError for a model that is not there."""
        wanted = self._settings.load_model
        if self._settings.model_control != "explicit" or "*" in wanted:
            return sources
        names = [source.name for source in sources]
        if absent := [name for name in wanted if name not in names]:
            raise SettingsError(
                f"--load-model {', '.join(absent)}: not in {self._repository.path}, which has "
                f"{', '.join(names) or 'no model'}"
            )
        return [source for source in sources if source.name in wanted]

    def _apply(self, sources: list[ModelSource], goes_on: Callable[[], bool]) -> None:
        self._loader.plan(sources)
        self.manager.apply(sources, goes_on)

    def _is_draining(self) -> bool:
        return self._health.draining

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(
            ServerCollector(
                self._sources,
                self._infer.unknown,
                self._transport.counters,
                lambda: lane.overhead() if (lane := self._transport.lane) else None,
                self._tracer.dropped,
            )
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        return registry

    def _sources(self) -> Iterable[Source]:
        for model in self.manager.servables():
            scheduler = model.scheduler
            yield Source(
                model.name,
                model.version,
                scheduler.stats.snapshot(),
                scheduler.queue_depth,
                scheduler.batches_in_progress,
                scheduler.mean_run_s,
                max((cost.max_rows for cost in scheduler.run_costs() if cost.inline), default=0),
                model.threads,
                model.sequences.counts() if model.sequences is not None else None,
            )


def serve(settings: Settings, stop: threading.Event, on_ready: Callable[[Server], None]) -> bool:
    """Run a server until stop is set. True if it drained without losing a request.

    on_ready: called once everything is loaded. Setting stop a second time, after it was
    cleared, cuts the drain delay short.
    """
    server = Server(settings)
    try:
        server.start(stop.is_set)
    except BaseException:
        server.abort()
        raise
    # What is there now stays: to look through it again would hold up requests for some 15 ms.
    gc.freeze()
    if not stop.is_set():
        on_ready(server)
    stop.wait()
    stop.clear()
    return server.stop(stop.wait)
