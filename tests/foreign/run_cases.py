"""Runs the cases of a client's program, in the environment that has the client.

`run_cases.py PROGRAM HOST:PORT [CASE...]`. A program says with connect(address) what its cases, the
functions test_*, are given: a context manager, a new one for each case. Exit code 1 if one fails.
"""

import asyncio
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CASE_S = 60.0


async def _run_async(connect: Callable[[str], Any], case: Callable[..., Any], address: str) -> None:
    async with connect(address) as client:
        await asyncio.wait_for(case(client), _CASE_S)


def _run(connect: Callable[[str], Any], case: Callable[..., Any], address: str) -> None:
    if inspect.iscoroutinefunction(case):
        asyncio.run(_run_async(connect, case, address))
        return
    with connect(address) as client:
        case(client)


def main(program: Path, address: str, names: list[str]) -> int:
    """Run these cases of a program, or all; say of each how it ended."""
    sys.path.insert(0, str(program.parent))
    module = importlib.import_module(program.stem)
    failed = 0
    for name in names or [name for name in vars(module) if name.startswith("test_")]:
        try:
            _run(module.connect, getattr(module, name), address)
        except Exception:  # noqa: BLE001  # the other cases go on
            failed += 1
            sys.stdout.write(f"{name}: failed\n{traceback.format_exc()}\n")
        else:
            sys.stdout.write(f"{name}: ok\n")
        sys.stdout.flush()
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
