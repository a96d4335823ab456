"""Every error that Penstock raises on purpose. Knows no gRPC: rpc.status maps each to a code.

PenstockError
├── RequestError                what one request did or met; the text is for its caller
│   ├── InvalidRequest          the request itself is wrong
│   ├── UnknownModel            no such model or version
│   ├── ModelNotReady           known, but not serving
│   ├── Unsupported             asked for something this server or model does not do
│   ├── RegionExists            shared memory is registered under that name
│   ├── UnknownRegion           no shared memory is registered under that name
│   ├── RegionUnavailable       shared memory of the caller cannot be opened, read or written
│   ├── RegionLimit             more shared memory than the server keeps or reads at once
│   ├── WindowTooSmall          an output is larger than the shared memory meant for it
│   ├── NotPermitted            something that the operator has not allowed, or not to this caller
│   ├── UnloadableModel         there is nothing to load the model from
│   ├── LoadFailed              the model was found and cannot be served
│   ├── TooBusy                 overload of what callers administer
│   ├── QueueFull               overload: try again later
│   ├── DeadlineUnmeetable      overload: the deadline would pass in the queue
│   ├── QueueTimeout            waited longer than the model's queue policy allows
│   ├── SequenceBacklogFull     too many sequences wait for others to end
│   ├── StatesFull              the states of sequences would take more memory than is allowed
│   ├── SequenceTimeout         a sequence waited longer for a place than its request allows
│   ├── DeadlineExceeded        the caller's deadline passed
│   ├── RequestCancelled        the caller left
│   ├── ShuttingDown            the server is draining
│   └── InferenceFailed         the model ran and failed
├── BackendError                the runtime refused a run; becomes InferenceFailed
│   ├── BackendInterrupted      a run was stopped because nobody waits for it
│   └── BackendContractError    outputs that do not match the signature
├── LoadError                   a model version cannot be served; the text is its reason
│   ├── ConfigError             config.pbtxt is wrong
│   ├── ManifestError           manifest.json is wrong, or a file does not match its digest
│   └── ProviderUnavailable     the execution provider that was asked for is missing
├── RepositoryError             the repository itself cannot be read or written
└── SettingsError               a setting of the server is wrong
"""

from collections.abc import Sequence

_MAX_ECHO = 64  # characters of a caller's text that an error repeats
_MAX_NAMES = 8  # names that an error lists before it says how many more there are
_MAX_DIMS = 16  # extents of a shape that an error lists


def printable(text: str) -> str:
    """Return a text on one line, with what cannot be printed written out."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def shown(text: str) -> str:
    """Return a caller's text so that it can stand in a message: short, printable, one line."""
    clean = printable(text[: _MAX_ECHO + 1])
    return clean if len(clean) <= _MAX_ECHO else clean[:_MAX_ECHO] + "..."


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a message: ['a','b']."""
    first = ",".join(f"'{shown(name)}'" for name in names[:_MAX_NAMES])
    more = len(names) - _MAX_NAMES
    return f"[{first}, and {more} more]" if more > 0 else f"[{first}]"


def dims(shape: Sequence[int | None]) -> str:
    """Return a shape as a text: [-1,784]; None and -1 both mean any extent."""
    text = ",".join("-1" if extent is None else str(extent) for extent in shape[:_MAX_DIMS])
    return f"[{text},...]" if len(shape) > _MAX_DIMS else f"[{text}]"


class PenstockError(Exception):
    """Base of every error that Penstock raises on purpose."""


class RequestError(PenstockError):
    """What one request did or met. The text is for its caller: no path, no class, no address."""


class InvalidRequest(RequestError):
    """The request itself is wrong; sending it again cannot help."""


class UnknownModel(RequestError):
    """There is no such model, or no such version of it."""


class ModelNotReady(RequestError):
    """The version exists but does not serve now."""


class Unsupported(RequestError):
    """The request asks for something that this server or this model does not do."""


class RegionExists(RequestError):
    """Shared memory is registered under that name already."""


class UnknownRegion(RequestError):
    """No shared memory is registered under that name."""


class RegionUnavailable(RequestError):
    """The system does not let the server open, read or write shared memory of the caller."""


class RegionLimit(RequestError):
    """More regions, or larger inputs in them, than the server is set to take."""


class WindowTooSmall(RequestError):
    """An output is larger than the shared memory that the request sets aside for it."""

    def __init__(self, output: str, size: int, needed: int) -> None:
        super().__init__(
            f"shared memory size specified with the request for output '{shown(output)}' ({size} "
            f"bytes) should be at least {needed} bytes to hold the results",
        )


class NotPermitted(RequestError):
    """The operator has not allowed this, or not to callers without the right header."""


class UnloadableModel(RequestError):
    """A model cannot be loaded from what there is of it. The log has the reason."""

    def __init__(self, model: str) -> None:
        super().__init__(f"failed to load '{shown(model)}', failed to poll from model repository")


class LoadFailed(RequestError):
    """A model that a caller loads cannot be served."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"load failed for model '{shown(model)}': {reason}")


class TooBusy(RequestError):
    """As many loads and unloads wait as may."""


class QueueFull(RequestError):
    """As many requests wait as the model's queue may hold."""

    def __init__(self, model: str, limit: str) -> None:
        super().__init__(f"Exceeds maximum queue size: {limit} wait for model '{model}' already")


class DeadlineUnmeetable(RequestError):
    """The work that is queued before the request takes longer than its deadline allows."""

    def __init__(self, model: str, needed_s: float, left_s: float) -> None:
        super().__init__(
            f"the deadline is {left_s * 1e3:.0f} ms away, but about {needed_s * 1e3:.0f} ms of "
            f"work is queued for model '{model}'",
        )


class QueueTimeout(RequestError):
    """The request waited longer than the model's queue policy allows."""

    def __init__(self) -> None:
        super().__init__("Request timeout expired")


class SequenceBacklogFull(RequestError):
    """As many sequences as the model allows wait for others to end."""

    def __init__(self, model: str, running: int, waiting: int) -> None:
        super().__init__(
            f"no room for another sequence of model '{model}': {running} are in progress and "
            f"{waiting} wait, the most that max_sequence_backlog allows",
        )


class StatesFull(RequestError):
    """The states of a model's sequences would take more memory than is allowed."""

    def __init__(self, model: str, most_mib: int) -> None:
        super().__init__(
            f"the states of the sequences of model '{model}' would take more than {most_mib} MiB, "
            "the most that --max-state-mib allows",
        )


class SequenceTimeout(RequestError):
    """The sequence waited for others to end, longer than a request of it allows."""

    def __init__(self) -> None:
        super().__init__("timeout of the corresponding sequence has been expired")


class DeadlineExceeded(RequestError):
    """The caller's deadline passed before the answer was there."""

    def __init__(self) -> None:
        super().__init__("Deadline Exceeded")


class RequestCancelled(RequestError):
    """The caller left before the answer was there."""

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class ShuttingDown(RequestError):
    """The server or the model version is draining."""

    def __init__(self) -> None:
        super().__init__(
            "GRPC server is shutting down and has stopped accepting new requests.",
        )


class InferenceFailed(RequestError):
    """The model ran and failed. The cause is in the log under the error id."""

    def __init__(self, model: str, error_id: str) -> None:
        super().__init__(f"inference failed for model '{model}' (error id {error_id})")


class BackendError(PenstockError):
    """The runtime refused or failed a run. Its text may name internals: it goes to the log."""


class BackendInterrupted(BackendError):
    """A run was stopped because nobody waits for it any more."""


class BackendContractError(BackendError):
    """The outputs of a run do not match the signature of the model."""


class LoadError(PenstockError):
    """A model version cannot be served; the text is the reason that operators see."""


class ConfigError(LoadError):
    """config.pbtxt is wrong. The text names the file and, where known, the line."""


class ManifestError(LoadError):
    """manifest.json is wrong, or a file does not match its digest."""


class ProviderUnavailable(LoadError):
    """The execution provider that was asked for is not there or did not take the model."""


class RepositoryError(PenstockError):
    """The model repository cannot be read or written."""


class SettingsError(PenstockError):
    """A setting of the server is wrong: name, value, what was expected."""
