"""What `penstock inspect` says of sequences, from a normalised configuration."""

from typing import Any

from service.pb.model_config_pb2 import ModelConfig
from service.repository.sequence_config import backlog_of, idle_s, scope_of, strategy_of
from service.repository.sequences import INFERRED, INFERRED_BY, Oldest


def sequences_of(config: ModelConfig | None) -> dict[str, Any]:
    """Return how a model keeps state between requests; empty if it keeps none."""
    if config is None:
        return {}
    if INFERRED in config.parameters:
        pairs = config.parameters[INFERRED].string_value.split(",")
        states = [dict(zip(("input", "output"), pair.split("=", 1), strict=True)) for pair in pairs]
        by = config.parameters[INFERRED_BY].string_value
        return {"states": states, "inferred_by": by, "scope": scope_of(config).value}
    if not config.HasField("sequence_batching"):
        return {}
    batching = config.sequence_batching
    strategy = strategy_of(config)
    return {
        "states": [{"input": s.input_name, "output": s.output_name} for s in batching.state],
        "controls": [entry.name for entry in batching.control_input],
        "strategy": "oldest" if isinstance(strategy, Oldest) else "direct",
        "idle_s": idle_s(config),
        "backlog": backlog_of(config),
        "scope": scope_of(config).value,
    }


def sequences_text(config: ModelConfig | None) -> str:
    """Return the same for people, "" if there is nothing to say."""
    described = sequences_of(config)
    if not described:
        return ""
    states = ", ".join(f"{state['output']} into {state['input']}" for state in described["states"])
    if "inferred_by" in described:
        return (
            f"{states}, by {described['inferred_by']}: kept for requests with a sequence_id, and "
            "for streams with --stream-state; others bring it along"
        )
    idle = f"{described['idle_s']:g} s"
    parts = [
        f"{states or 'no state'}",
        f"controls {', '.join(described['controls'])}" if described["controls"] else "",
        f"strategy {described['strategy']}",
        "a stream is a sequence" if described["scope"] == "stream" else f"idle for at most {idle}",
        f"at most {described['backlog']} wait for a place",
    ]
    return "; ".join(filter(None, parts))
