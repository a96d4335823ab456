"""Where each model runs and with how many threads: from settings, config.pbtxt and CPUs.

The rule for the threads is in service/runtime/threads.py; this knows what goes into it.
"""

from collections.abc import Iterable
from typing import Final

from service.config import Settings
from service.errors import LoadError, ProviderUnavailable
from service.lifecycle.version_policy import served_versions
from service.pb.model_config_pb2 import ModelConfig, ModelInstanceGroup
from service.repository.layout import ModelSource
from service.repository.manifest import SessionOptions
from service.repository.session_parameters import session_parameters
from service.runtime.cpus import Cpus
from service.runtime.providers import Device, has_cuda
from service.runtime.session import SessionConfig
from service.runtime.threads import Demand, ThreadPlan, plan_threads

# ModelOptimizationPolicy.Graph.level of each level of a manifest.
_GRAPH_LEVELS: Final = {"all": 0, "extended": 2, "basic": 1, "disabled": -1}


class Placement:
    """The plan of one server. A new plan holds for what is loaded after it."""

    def __init__(self, settings: Settings, cpus: Cpus) -> None:
        self._settings = settings
        self._cpus = cpus
        self._plans: dict[str, ThreadPlan] = {}
        self._gpu_sessions = 1

    def plan(self, sources: Iterable[tuple[ModelSource, ModelConfig | None]]) -> None:
        """Divide CPUs and GPU memory over the versions that will be served of these models."""
        demands = []
        for source, config in sources:
            policy = config.version_policy if config is not None else None
            served = served_versions(policy, [version.version for version in source.versions])
            try:
                demands.append(self._demand(source.name, config, len(served)))
            except LoadError:  # said when the model is loaded
                continue
        self._plans = plan_threads(self._cpus, demands, self._settings.threads)
        # A swap loads the new version before it frees the old one.
        spare = 0 if self._settings.model_control == "none" and not self._settings.watch else 1
        self._gpu_sessions = max(1, spare + sum(d.versions for d in demands if d.on_gpu))

    def threads(self, model: str, config: ModelConfig | None) -> ThreadPlan:
        """Return the threads of a model, as if it were alone if it is in no plan."""
        planned = self._plans.get(model)
        if planned is None:
            demand = self._demand(model, config, versions=1)
            planned = plan_threads(self._cpus, [demand], self._settings.threads)[model]
        return planned

    def wants_graphs(self, config: ModelConfig | None) -> bool:
        """Tell whether runs of a model are to be captured. Raises ProviderUnavailable."""
        asked = config is not None and config.optimization.cuda.graphs
        return (asked or self._settings.cuda_graphs) and _may_use_gpu(self._device(config)[0])

    def session_config(
        self,
        threads: ThreadPlan,
        config: ModelConfig | None,
        options: SessionOptions | None = None,
    ) -> SessionConfig:
        """Return how the sessions of a model are made. Raises ProviderUnavailable.

        options: what the exporter measured to be best; a level in config.pbtxt wins over its.
        """
        options = options or SessionOptions()
        device, cuda_device = self._device(config)
        level = config.optimization.graph.level if config is not None else 0
        asked = session_parameters(config)
        inter_op_threads = asked.inter_op_threads or (threads.threads if asked.parallel else 1)
        return SessionConfig(
            device,
            cuda_device,
            threads.threads,
            max(-1, min(level, 2)) or _GRAPH_LEVELS[options.graph_level],
            inter_op_threads=inter_op_threads,
            parallel=asked.parallel,
            spinning=threads.spinning,
            disabled_optimizers=options.disabled_optimizers,
            cuda_graphs=self.wants_graphs(config),
            gpu_memory_bytes=self._gpu_share() if _may_use_gpu(device) else 0,
        )

    def _gpu_share(self) -> int:
        return (self._settings.gpu_memory_mib << 20) // self._gpu_sessions

    def _demand(self, model: str, config: ModelConfig | None, versions: int) -> Demand:
        groups = config.instance_group if config is not None else ()
        default = self._settings.instances
        asked = session_parameters(config)
        device, _ = self._device(config)
        return Demand(
            model,
            instances=sum(group.count or default for group in groups) or default,
            versions=versions,
            intra_op_threads=asked.intra_op_threads,
            spinning=asked.spinning,
            on_gpu=_may_use_gpu(device),
        )

    def _device(self, config: ModelConfig | None) -> tuple[Device, int]:
        """Return where a model runs, and on which GPU. Raises ProviderUnavailable."""
        settings = self._settings
        device, cuda_device = Device(settings.device), settings.cuda_device
        for group in config.instance_group if config is not None else ():
            if group.kind == ModelInstanceGroup.KIND_CPU:
                device = Device.CPU
            elif group.kind == ModelInstanceGroup.KIND_GPU:
                if device is Device.CPU:
                    raise ProviderUnavailable(
                        "config.pbtxt demands KIND_GPU, but the server runs with --device cpu"
                    )
                device = Device.CUDA
                cuda_device = group.gpus[0] if group.gpus else cuda_device
        return device, cuda_device


def _may_use_gpu(device: Device) -> bool:
    return device is Device.CUDA or (device is Device.AUTO and has_cuda())
