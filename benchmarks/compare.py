"""Servers side by side: started one after another in each round, driven by h2load, as ratios.

    python benchmarks/compare.py MODEL.onnx [--rounds 5] [--peer NAME=HOST:PORT] [--out FILE.json]

Every case sends one row a request, FP32, over one connection. The servers alternate within a
round, so that a noisy machine is noisy for all of them; the table gives medians and the ratio to
the yardstick (benchmarks/yardstick.py) of the same round, with its spread.
"""

import argparse
import json
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.transport.native import is_installed

SERVICE = "/inference.GRPCInferenceService/"
STREAM_MESSAGES = 100  # messages of one stream, all sent at once


@dataclass(frozen=True)
class Case:
    """What h2load does: requests (or streams) in flight, and how many in all."""

    name: str
    method: str
    in_flight: int
    requests: int
    messages: int  # of one request


CASES = (
    Case("unary n=1", "ModelInfer", 1, 3_000, 1),
    Case("unary n=16", "ModelInfer", 16, 12_000, 1),
    Case("unary n=64", "ModelInfer", 64, 20_000, 1),
    Case("one stream", "ModelStreamInfer", 1, 150, STREAM_MESSAGES),
    Case("16 streams", "ModelStreamInfer", 16, 400, STREAM_MESSAGES),
)


class Server:
    """A server of this machine, in a process of its own."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        line = self._process.stdout.readline() if self._process.stdout else ""
        found = re.search(r"grpc=(\S+)", line)
        if found is None:
            raise SystemExit(f"{' '.join(command)} did not start: {line!r}")
        self.address = found[1]

    def cpu_s(self) -> float:
        """Return the CPU seconds that the process has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(30)


def main() -> None:
    """Run every case on every server and print the table."""
    parser = argparse.ArgumentParser(description="Servers side by side.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=HOST:PORT")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bodies = write_bodies(scratch, arguments.model)
        addresses: dict[str, str] = dict(peer.split("=", 1) for peer in arguments.peer)
        servers: dict[str, Server] = {}
        for name, command in commands(arguments.model).items():
            server = servers[name] = Server(command)
            stack.callback(server.stop)
            addresses[name] = server.address
        figures: dict[str, dict[str, list[float]]] = {}
        cpu: dict[str, dict[str, list[float]]] = {}
        for round_number in range(arguments.rounds):
            for case in CASES:
                for name, address in addresses.items():
                    before = servers[name].cpu_s() if name in servers else 0.0
                    rate = h2load(address, case, bodies[case.messages])
                    figures.setdefault(case.name, {}).setdefault(name, []).append(rate)
                    if name in servers:
                        used = servers[name].cpu_s() - before
                        each = used / (case.requests * case.messages) * 1e6
                        cpu.setdefault(case.name, {}).setdefault(name, []).append(each)
            print(f"round {round_number + 1} of {arguments.rounds} done", file=sys.stderr)
    print(table(figures, cpu))
    if arguments.out:
        arguments.out.write_text(json.dumps({"per_second": figures, "cpu_us": cpu}, indent=2))


def commands(model: Path) -> dict[str, list[str]]:
    """Return how each of our servers is started."""
    penstock = [
        sys.executable, "-m", "service", "serve", str(model), "--model-name", "model",
        "--port", "0", "--http-port", "0", "--threads", "1", "--drain-delay", "0", "--transport",
    ]  # fmt: skip
    yardstick = str(Path(__file__).with_name("yardstick.py"))
    found = {"yardstick": [sys.executable, yardstick, str(model), str(free_port())]}
    if is_installed():
        found["penstock native"] = [*penstock, "native"]
    found["penstock threaded"] = [*penstock, "threaded"]
    return found


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_bodies(directory: Path, model: Path) -> dict[int, Path]:
    """Write framed requests for h2load: one, and STREAM_MESSAGES of them."""
    import onnxruntime as ort  # noqa: PLC0415  slow to import

    spec = ort.InferenceSession(str(model)).get_inputs()[0]
    shape = [extent if isinstance(extent, int) else 1 for extent in spec.shape]
    request = ModelInferRequest(model_name="model", id="1")
    request.inputs.add(name=spec.name, datatype="FP32", shape=shape)
    request.raw_input_contents.append(np.ones(shape, np.float32).tobytes())
    message = request.SerializeToString()
    framed = struct.pack(">BI", 0, len(message)) + message
    paths = {}
    for count in (1, STREAM_MESSAGES):
        paths[count] = directory / f"body-{count}"
        paths[count].write_bytes(framed * count)
    return paths


def h2load(address: str, case: Case, body: Path) -> float:
    """Drive one case and return messages a second."""
    finished = subprocess.run(
        [
            "h2load",
            "-n",
            str(case.requests),
            "-c",
            "1",
            "-m",
            str(case.in_flight),
            "-d",
            str(body),
            "-H",
            "te: trailers",
            "-H",
            "content-type: application/grpc",
            f"http://{address}{SERVICE}{case.method}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    rate = re.search(r"([\d.]+) req/s", finished.stdout)
    succeeded = re.search(r"(\d+) succeeded", finished.stdout)
    if rate is None or succeeded is None or int(succeeded[1]) != case.requests:
        raise SystemExit(f"{case.name} at {address} failed:\n{finished.stdout}")
    return float(rate[1]) * case.messages


def table(
    figures: dict[str, dict[str, list[float]]], cpu: dict[str, dict[str, list[float]]]
) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| case | server | messages/s | ratio to the yardstick | CPU us a message |",
        "|---|---|---|---|---|",
    ]
    for case, servers in figures.items():
        for name, rates in servers.items():
            base = servers["yardstick"]
            ratios = sorted(rate / one for rate, one in zip(rates, base, strict=True))
            used = cpu.get(case, {}).get(name)
            lines.append(
                f"| {case} | {name} | {statistics.median(rates):,.0f} | "
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | "
                + (f"{statistics.median(used):.0f} |" if used else "- |")
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
