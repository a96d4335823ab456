"""LogSettings: what the log says, and in which form, while the server runs."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from service.errors import InvalidRequest, Unsupported, shown
from service.observability.logs import FORMS, LogControl
from service.pb.grpc_service_pb2 import LogSettingsRequest, LogSettingsResponse
from service.rpc.messages import parse
from service.rpc.methods import Answer

_LOG = logging.getLogger(__name__)
# By setting: the field of the message, the field of logs.LogSettings, and what clients call it.
_FIELDS: Final = {
    "log_info": ("bool_param", "info", "boolean"),
    "log_warning": ("bool_param", "warning", "boolean"),
    "log_error": ("bool_param", "error", "boolean"),
    "log_verbose_level": ("uint32_param", "verbose_level", "int32"),
    "log_format": ("string_param", "form", "string"),
}


class LogService:
    """LogSettings."""

    def __init__(self, control: LogControl) -> None:
        self._control = control

    @property
    def answers(self) -> Mapping[str, Answer]:
        """Return what answers each RPC; see methods.Service."""
        return {"LogSettings": self.settings}

    def settings(self, message: bytes) -> bytes:
        """Answer LogSettings: change what is given, all of it or nothing, then tell all.

        Raises InvalidRequest, and Unsupported for a place of the log.
        """
        request = parse(LogSettingsRequest, message)
        if "log_file" in request.settings:
            raise Unsupported("log file location can not be updated through network protocol")
        changes: dict[str, bool | int | str] = {}
        for key, (kind, name, called) in _FIELDS.items():
            if key not in request.settings:
                continue
            value = request.settings[key]
            if value.WhichOneof("parameter_choice") != kind:
                raise InvalidRequest(f"expect {called} for '{key}'")
            changes[name] = getattr(value, kind)
        if changes.get("form", "default") not in FORMS:
            given = shown(str(changes["form"]))
            raise InvalidRequest(f"invalid argument for log_format, got: {given}")
        if changes:
            _LOG.info("log settings: %s", changes)  # while the old ones hold
            self._control.change(replace(self._control.settings, **changes))  # type: ignore[arg-type]
        settings = self._control.settings
        response = LogSettingsResponse()
        response.settings["log_file"].string_param = ""  # it is set, to nothing: clients compare
        for key, (kind, name, _) in _FIELDS.items():
            setattr(response.settings[key], kind, getattr(settings, name))
        return response.SerializeToString()
