"""What the transports count stands in docs/configuration.md, name by name."""

import re

import pytest

from service.transport.native import is_installed, native_transport
from service.transport.threaded import ThreadedTransport
from tests.support.servers import ROOT

_TEXT = (ROOT / "docs" / "configuration.md").read_text()
_TABLE = _TEXT.partition("### What the transport counts")[2].partition("## The model")[0]
_ROWS = [row for row in _TABLE.splitlines() if row.startswith("| `")]


def documented() -> set[str]:
    """Return the names of the table as a transport gives them."""
    names: set[str] = set()
    for row in _ROWS:
        first, reasons = row.split("|")[1:3]
        for name in re.findall(r"`(\S+)`", first):
            if "{" not in name:
                names.add(name)
                continue
            prefix = name.partition("_")[0]
            names |= {f"{prefix}_{reason}_total" for reason in re.findall(r"`(\w+)`", reasons)}
    return names


def marked() -> set[str]:
    """Return the names with a star: those of the threaded transport."""
    stars = set(re.findall(r"`(\w+)`\*", _TABLE))
    return {f"refused_{name}_total" if name == "draining" else name for name in stars}


def test_native_transport() -> None:
    """The native transport counts what the table says, and nothing else."""
    if not is_installed():
        pytest.skip("penstock-transport is not installed: make native (needs cargo)")
    transport = native_transport([], {})
    assert set(transport.counters()) == documented()
    transport.close()


def test_threaded_transport() -> None:
    """The threaded transport counts what the table marks; those of TLS only where there is TLS."""
    transport = ThreadedTransport([], {})
    of_tls = {"tls_reloads_total", "tls_reload_failures_total"}
    assert set(transport.counters()) == marked() - of_tls
    transport.close()
