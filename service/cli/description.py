"""What `penstock inspect` says of one version, as text and as JSON. Knows no file and no server."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from service.cli.states import sequences_of, sequences_text
from service.errors import dims
from service.pb.model_config_pb2 import ModelConfig, ModelQueuePolicy
from service.repository.manifest import Manifest
from service.tensors import Signature, TensorSpec

READY: Final = "READY"
FAILED: Final = ("FAILED", "UNAVAILABLE")  # from files, and as RepositoryIndex says it
_LABEL_WIDTH: Final = 11
_MAX_SIZES: Final = 8  # of batches, in the text
_UNITS: Final = ("B", "kB", "MB", "GB")


@dataclass(frozen=True, slots=True)
class Description:
    """One version of a model. What is not known is empty, and is not shown.

    state: as in RepositoryIndex, or NOT SERVED. batching: whether, and why. facts: further
    lines, by label.
    """

    model: str
    version: str
    state: str
    reason: str = ""
    signature: Signature | None = None
    max_batch_size: int = 0
    batching: str = ""
    provider: str = ""
    size_bytes: int = 0
    digests: str = ""
    manifest: Manifest | None = None
    config: ModelConfig | None = None
    notes: Sequence[str] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """Return some lines for people."""
        lines = [f"{self.model} {self.version}".strip() + f"  {self.state}"]
        lines += [f"  {label:<{_LABEL_WIDTH}}{text}" for label, text in self._facts() if text]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        signature = self.signature
        manifest = self.manifest
        return {
            "model": self.model,
            "version": self.version,
            "state": self.state,
            "reason": self.reason,
            "inputs": [_tensor(spec) for spec in signature.inputs] if signature else [],
            "outputs": [_tensor(spec) for spec in signature.outputs] if signature else [],
            "max_batch_size": self.max_batch_size,
            "batching": self.batching,
            "sequences": sequences_of(self.config),
            "decoupled": _is_decoupled(self.config),
            "provider": self.provider,
            "size_bytes": self.size_bytes,
            "digests": self.digests,
            "parity": [
                {
                    "batch": entry.batch,
                    "output": entry.output,
                    "max_abs": entry.max_abs,
                    "max_rel": entry.max_rel,
                }
                for entry in (manifest.parity if manifest else ())
            ],
            "variant": manifest.variant if manifest else "",
            "axes": [asdict(axis) for axis in (manifest.axes if manifest else ())],
            "producer": dict(manifest.producer) if manifest else {},
            "queue": queue_of(self.config) if self.config else {},
            "notes": list(self.notes),
            "statistics": dict(self.statistics),
        }

    def _facts(self) -> list[tuple[str, str]]:
        signature = self.signature
        return [
            ("reason", self.reason),
            ("inputs", _tensors(signature.inputs) if signature else ""),
            ("outputs", _tensors(signature.outputs) if signature else ""),
            ("batching", self.batching),
            ("responses", _responses_text(self.config)),
            ("sequences", sequences_text(self.config)),
            ("queue", _queue_text(self.config)),
            ("provider", self.provider),
            ("threads", _threads(self.config)),
            ("size", _size(self.size_bytes) if self.size_bytes else ""),
            ("digests", self.digests),
            ("variant", _variant(self.manifest)),
            ("axes", _axes(self.manifest)),
            ("parity", _parity(self.manifest)),
            ("made by", _producer(self.manifest)),
            ("note", "; ".join(self.notes)),
            ("traffic", _traffic(self.statistics)),
            ("batches", _batches(self.statistics)),
            *_scheduling(self.statistics.get("scheduling")),
        ]


def _is_decoupled(config: ModelConfig | None) -> bool:
    return config is not None and config.model_transaction_policy.decoupled


def _responses_text(config: ModelConfig | None) -> str:
    return "any number a request, on streams only" if _is_decoupled(config) else ""


def queue_of(config: ModelConfig) -> dict[str, Any]:
    """Return how requests wait by a normalised configuration. Names are those of config.pbtxt."""
    batching = config.dynamic_batching
    return {
        "max_queue_delay_microseconds": batching.max_queue_delay_microseconds,
        "preferred_batch_size": list(batching.preferred_batch_size),
        "priority_levels": batching.priority_levels,
        "default_queue_policy": _policy(batching.default_queue_policy),
        "priority_queue_policy": {
            str(level): _policy(policy)
            for level, policy in sorted(batching.priority_queue_policy.items())
        },
    }


def _policy(policy: ModelQueuePolicy) -> dict[str, Any]:
    return {
        "max_queue_size": policy.max_queue_size,
        "default_timeout_microseconds": policy.default_timeout_microseconds,
        "timeout_action": ModelQueuePolicy.TimeoutAction.Name(policy.timeout_action),
        "allow_timeout_override": policy.allow_timeout_override,
    }


def _queue_text(config: ModelConfig | None) -> str:
    if config is None:
        return ""
    queue = queue_of(config)
    default = queue["default_queue_policy"]
    timeout_us = default["default_timeout_microseconds"]
    parts = [
        f"delay {queue['max_queue_delay_microseconds']} us",
        f"at most {default['max_queue_size']} requests"
        if default["max_queue_size"]
        else "as many requests as the server allows",
        f"timeout {timeout_us} us then {default['timeout_action']}" if timeout_us else "no timeout",
    ]
    if queue["preferred_batch_size"]:
        parts.insert(1, f"preferred batch {', '.join(map(str, queue['preferred_batch_size']))}")
    if queue["priority_levels"]:
        parts.append(f"{queue['priority_levels']} priority levels")
    return "; ".join(parts)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.wire, "shape": list(spec.shape)}


def _tensors(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(
        f"{spec.name} {spec.datatype}{dims(spec.shape)}" + (" optional" if spec.optional else "")
        for spec in specs
    )


def _size(size: float) -> str:
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size:.0f} B"


def _parity(manifest: Manifest | None) -> str:
    if manifest is None or not manifest.parity:
        return ""
    worst = max(manifest.parity, key=lambda entry: entry.max_rel)
    batches = sorted({entry.batch for entry in manifest.parity})
    return (
        f"at batch {', '.join(map(str, batches))}: worst difference {worst.max_abs:.2g} absolute, "
        f"{worst.max_rel:.2g} relative ('{worst.output}'), allowed "
        f"{manifest.tolerance.relative:g} relative"
    )


def _variant(manifest: Manifest | None) -> str:
    """Return what the exporter made of the model, "" if it is the model as it was."""
    if manifest is None:
        return ""
    session = manifest.session
    parts = [] if manifest.variant == "source" else [manifest.variant]
    if session.graph_level != "all":
        parts.append(f"graph optimised at level {session.graph_level}")
    if session.disabled_optimizers:
        parts.append(f"without {', '.join(session.disabled_optimizers)}")
    return "; ".join(parts)


def _axes(manifest: Manifest | None) -> str:
    """Return the free axes besides the batch, which has a line of its own."""
    return "; ".join(
        f"{axis.name} {axis.low} to {axis.high or 'any'}, proved at "
        f"{', '.join(map(str, axis.proved))}"
        for axis in (manifest.axes if manifest is not None else ())
        if axis.name != "batch"
    )


def _producer(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    return ", ".join(f"{name} {version}" for name, version in sorted(manifest.producer.items()))


def _threads(config: ModelConfig | None) -> str:
    if config is None or "intra_op_thread_count" not in config.parameters:
        return ""
    count = config.parameters["intra_op_thread_count"].string_value
    spinning = config.parameters["session.intra_op.allow_spinning"].string_value == "1"
    return f"{count} a run, spinning {'on' if spinning else 'off'}"


def _batches(statistics: Mapping[str, Any]) -> str:
    """Return the sizes of the batches that ran, the most frequent ones if there are many."""
    batches = statistics.get("batches", [])
    most = sorted(batches, key=lambda batch: -batch["executions"])[:_MAX_SIZES]
    parts = [
        f"{batch['executions']} of {_rows(batch['rows'])} ({batch['mean_us']:.0f} us)"
        for batch in sorted(most, key=lambda batch: batch["rows"])
    ]
    if len(batches) > len(most):
        parts.append(f"and {len(batches) - len(most)} sizes more")
    return ", ".join(parts)


def _scheduling(scheduling: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if scheduling is None:
        return []
    waiting, running = scheduling["queue_depth"], scheduling["batches_in_progress"]
    costs = [
        f"up to {_rows(cost['max_rows'])} {cost['mean_us']:.0f} us "
        f"{'inline' if cost['inline'] else 'handed over'}"
        for cost in scheduling["run_costs"]
    ]
    return [
        ("now", f"{waiting} requests wait, {running} batches run"),
        ("run time", "; ".join([f"mean {scheduling['mean_run_us']:.0f} us", *costs])),
    ]


def _rows(count: int) -> str:
    return f"{count} row" + ("s" if count != 1 else "")


def _traffic(statistics: Mapping[str, Any]) -> str:
    if not statistics:
        return ""
    return (
        f"{statistics['requests']:.0f} answered, {statistics['failed']:.0f} failed; mean batch "
        f"{statistics['mean_batch_rows']:.1f} rows, queue {statistics['mean_queue_us']:.0f} us, "
        f"compute {statistics['mean_compute_us']:.0f} us"
    )
