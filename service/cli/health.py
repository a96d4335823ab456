"""`penstock health`: is it serving? For probes and HEALTHCHECK, so it imports little."""

import argparse
import sys
from typing import Final

import grpc

from service.cli.connection import ADDRESS_HELP, add_tls_flags, credentials, default_address
from service.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

_CHECK: Final = "/grpc.health.v1.Health/Check"
_NOT_SERVING: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the address, the service and the time it may take."""
    parser.add_argument("address", nargs="?", metavar="ADDRESS", help=ADDRESS_HELP)
    parser.add_argument(
        "--service", default="", metavar="NAME", help="name of a model (default: the whole server)"
    )
    parser.add_argument(
        "--timeout", type=float, default=3.0, metavar="SECONDS", help="to answer (default: 3)"
    )
    add_tls_flags(parser)
    parser.epilog = "exit code: 0 SERVING, 1 anything else, 2 wrong usage"


def run(arguments: argparse.Namespace) -> int:
    """Print the status and return 0 if it is SERVING. Raises UsageError, SettingsError."""
    address = arguments.address or default_address()
    try:
        with _channel(address, arguments) as channel:
            check = channel.unary_unary(
                _CHECK,
                request_serializer=HealthCheckRequest.SerializeToString,
                response_deserializer=HealthCheckResponse.FromString,
            )
            request = HealthCheckRequest(service=arguments.service)
            status = check(request, timeout=arguments.timeout).status
    except grpc.RpcError as error:
        print(f"{address}: {error.code().name}: {error.details()}", file=sys.stderr)  # noqa: T201
        return _NOT_SERVING
    print(HealthCheckResponse.ServingStatus.Name(status))  # noqa: T201
    return 0 if status == HealthCheckResponse.SERVING else _NOT_SERVING


def _channel(address: str, arguments: argparse.Namespace) -> grpc.Channel:
    secret = credentials(arguments)
    if secret is None:
        return grpc.insecure_channel(address)
    override = [("grpc.ssl_target_name_override", arguments.tls_name)] if arguments.tls_name else []
    return grpc.secure_channel(address, secret, override)
