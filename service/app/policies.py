"""How requests are batched and wait, by a normalised configuration."""

from service.inference.policy import BatchPolicy
from service.inference.queue import LevelPolicy, QueuePolicy
from service.pb.model_config_pb2 import ModelConfig, ModelQueuePolicy
from service.repository.signature import ModelSpec


def batch_policy(config: ModelConfig, spec: ModelSpec) -> BatchPolicy:
    """Return how requests are batched by a normalised configuration."""
    batching = config.dynamic_batching
    return BatchPolicy(
        max_rows=max(1, spec.max_batch_size),
        preferred_rows=tuple(sorted(batching.preferred_batch_size)),
        max_delay_s=batching.max_queue_delay_microseconds / 1e6,
    )


def queue_policy(config: ModelConfig) -> QueuePolicy:
    """Return how requests wait by a normalised configuration."""
    batching = config.dynamic_batching
    levels = max(1, batching.priority_levels)
    return QueuePolicy(
        levels=levels,
        default_level=batching.default_priority_level or levels,
        default=_level_policy(batching.default_queue_policy),
        by_level=tuple(
            (level, _level_policy(policy))
            for level, policy in sorted(batching.priority_queue_policy.items())
        ),
    )


def _level_policy(policy: ModelQueuePolicy) -> LevelPolicy:
    return LevelPolicy(
        timeout_s=policy.default_timeout_microseconds / 1e6,
        rejects=policy.timeout_action == ModelQueuePolicy.REJECT,
        overridable=policy.allow_timeout_override,
        max_requests=policy.max_queue_size,
    )
