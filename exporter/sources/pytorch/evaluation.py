"""A module as it is served: in eval mode, without gradients, without state between calls.

The module of the caller is borrowed: it leaves as it came, whatever happens in between.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from exporter.errors import ConversionFailed
from exporter.sources.user_code import line_of
from service.errors import listed


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Hold the module in eval mode and restore mode, buffers and random state afterwards.

    Raises ConversionFailed at the end if forward changed a buffer: ONNX keeps no state between
    calls, so the served model would answer differently from the second request on.
    """
    modes = {part: part.training for part in module.modules()}
    buffers = {name: (buffer, buffer.clone()) for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module.eval()
            yield
        changed = [name for name, (now, then) in buffers.items() if not _same(now, then)]
    finally:
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for now, then in buffers.values():
                now.copy_(then)
    if changed:
        owner, _, leaf = changed[0].rpartition(".")
        line = line_of(
            type(module.get_submodule(owner)).forward, rf"self\.{leaf}\s*([-+*/]?=|\.\w+_\()"
        )
        raise ConversionFailed(
            f"forward changes the buffer(s) {listed(changed)}, also in eval mode"
            + (f"\n  at {line}" if line else "")
            + "\n  ONNX keeps no state between calls: pass the state in and out as tensors, or "
            "update it only `if self.training`.",
        )


def _same(now: torch.Tensor, then: torch.Tensor) -> bool:
    return bool(((now == then) | ((now != now) & (then != then))).all())  # noqa: PLR0124 (NaN)
