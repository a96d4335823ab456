"""What the transport alone costs: h2load against an echo of 3,200 bytes, the size of a digit.

    python transport/benchmarks/echo.py [--workers 1] [--calls 100000]

Prints calls a second, and the CPU time a call of the interpreter's thread and of the network's.
Needs h2load (Debian: nghttp2-client). A stream is a hundred messages in one call.
"""

import argparse
import os
import re
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

from penstock_transport import Call, Server

UNARY = "/bench.Echo/Unary"
STREAM = "/bench.Echo/Stream"
MESSAGE = struct.pack(">BI", 0, 3200) + bytes(3200)
MESSAGES_A_STREAM = 100
CASES = [
    (UNARY, 1, 0.2),
    (UNARY, 16, 1.0),
    (UNARY, 64, 1.0),
    (STREAM, 1, 0.005),
    (STREAM, 16, 0.02),
]
RATE = re.compile(r"finished in .*?, ([\d.]+) req/s")
FAILED = re.compile(r"(\d+) failed, (\d+) errored, (\d+) timeout")
NETWORK = "penstock-transp"  # the kernel keeps 15 characters of a thread's name


def echo(server: Server) -> None:
    """Answer every message with itself until the server is closed."""
    while not server.closed:
        replies: list[tuple[Call, bytes]] = []
        ended: list[Call] = []
        for event in server.take(256):
            if event.kind in ("request", "message"):
                replies.append((event.call, event.message))
            elif event.kind == "half-closed":
                ended.append(event.call)
        server.reply_many(replies)
        for call in ended:
            call.finish(0)


def cpu_seconds() -> tuple[float, float]:
    """Give the CPU time of this process so far: the network's threads, all others."""
    network = others = 0.0
    for task in Path("/proc/self/task").iterdir():
        name, _, rest = (task / "stat").read_text().rpartition(")")
        ticks = sum(int(field) for field in rest.split()[11:13])
        seconds = ticks / os.sysconf("SC_CLK_TCK")
        if NETWORK in name:
            network += seconds
        else:
            others += seconds
    return network, others


def load(address: str, path: str, in_flight: int, calls: int, body: Path) -> float:
    """Run h2load and give calls a second; every call must have been answered."""
    command = ["h2load", "-n", str(calls), "-c", "1", "-m", str(in_flight), "-d", str(body)]
    command += ["-H", "te: trailers", "-H", "content-type: application/grpc"]
    done = subprocess.run(
        [*command, f"http://{address}{path}"], check=True, capture_output=True, text=True
    )
    rate, failed = RATE.search(done.stdout), FAILED.search(done.stdout)
    if rate is None or failed is None or any(int(count) for count in failed.groups()):
        raise SystemExit(f"h2load failed:\n{done.stdout}")
    return float(rate.group(1))


def run(address: str, calls: int, folder: Path) -> None:
    """Print one line a case."""
    print(f"{'case':<22}{'calls/s':>10}{'network us':>12}{'Python us':>12}")
    for path, in_flight, share in CASES:
        body = folder / "body"
        body.write_bytes(MESSAGE * (MESSAGES_A_STREAM if path == STREAM else 1))
        count = max(int(calls * share), in_flight)
        before = cpu_seconds()
        rate = load(address, path, in_flight, count, body)
        network, others = (
            (after - start) / count * 1e6
            for after, start in zip(cpu_seconds(), before, strict=True)
        )
        name = f"{path.rpartition('/')[2].lower()}, {in_flight} in flight"
        print(f"{name:<22}{rate:>10.0f}{network:>12.1f}{others:>12.1f}")


def main() -> None:
    """Serve, load, close."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=0, help="threads of the network")
    parser.add_argument("--calls", type=int, default=100_000, help="unary calls a case")
    arguments = parser.parse_args()
    methods = {UNARY: "unary", STREAM: "stream"}
    server = Server(["127.0.0.1:0"], methods, workers=arguments.workers, stream_window=128)
    [address] = server.start()
    thread = threading.Thread(target=echo, args=(server,))
    thread.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(address, arguments.calls, Path(folder))
    finally:
        server.close()
        thread.join()


if __name__ == "__main__":
    main()
