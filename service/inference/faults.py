"""Errors that are nobody's request's fault: the log has them, their callers get an id."""

import logging
import secrets

from service.errors import InferenceFailed

_LOG = logging.getLogger(__name__)


def logged_fault(model: str, error: BaseException) -> InferenceFailed:
    """Log an error of a run, with its traceback, under an id; return what the caller is told."""
    error_id = secrets.token_hex(4)
    _LOG.error("model %s: a run failed (error id %s)", model, error_id, exc_info=error)
    return InferenceFailed(model, error_id)
