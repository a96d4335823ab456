"""Why sequences ended before their END, for those who go on as if they had not."""

from typing import Final

from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    RequestCancelled,
    RequestError,
    shown,
)

CANCELLED: Final = "a request of it was cancelled"
LATE: Final = "a request of it missed its deadline"
TIMED_OUT: Final = "it waited for a place longer than its timeout"
CLOSED: Final = "the model was unloaded"
_MAX_ENDINGS: Final = 1024  # of one scope; the oldest are forgotten


def idle(seconds: float) -> str:
    """Return the reason for the end of a sequence that was without a request for so long."""
    return f"no request for {seconds:g} s, which max_sequence_idle_microseconds allows"


class Endings:
    """The reasons, by scope and id, until an id is used again or its scope is over."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._reasons: dict[object, dict[int | str, str]] = {}

    def note(self, scope: object, name: int | str, reason: str) -> None:
        """Remember why a sequence ended."""
        reasons = self._reasons.setdefault(scope, {})
        reasons.pop(name, None)
        reasons[name] = reason
        if len(reasons) > _MAX_ENDINGS:
            del reasons[next(iter(reasons))]

    def forget(self, scope: object, name: int | str) -> None:
        """Forget what became of a sequence: its id is in use again."""
        reasons = self._reasons.get(scope)
        if reasons is not None:
            reasons.pop(name, None)
            if not reasons:
                del self._reasons[scope]

    def forget_scope(self, scope: object) -> None:
        """Forget everything of a scope that is over."""
        self._reasons.pop(scope, None)

    def knows(self, scope: object, name: int | str) -> bool:
        """Tell whether a sequence ended before its END."""
        return name in self._reasons.get(scope, {})

    def not_started(self, scope: object, name: int | str, reason: str = "") -> InvalidRequest:
        """Return what a request is told that goes on with a sequence which is not there.

        reason: why it is not; default: what is remembered.
        """
        reason = reason or self._reasons.get(scope, {}).get(name, "")
        text = (
            f"inference request for sequence {shown(str(name))} to model '{self._model}' must "
            "specify the START flag on the first request of the sequence"
        )
        return InvalidRequest(f"{text}; the one before ended: {reason}" if reason else text)


def reason_of(error: RequestError) -> str:
    """Return why a sequence ended whose step did, as its next request is told."""
    if isinstance(error, RequestCancelled):
        return CANCELLED
    if isinstance(error, DeadlineExceeded):
        return LATE
    what = "failed" if isinstance(error, InferenceFailed) else "was refused"
    return f"a request of it {what}: {error}"
