"""`penstock bench`: a load on a server, until it is known how much it bears and how fast.

The requests are sent by the client of penstock-transport, which keeps the time; what stands here
chooses the loads, judges what was measured and shows it.
"""

from service.cli.bench.arguments import add_arguments
from service.cli.bench.run import run

__all__ = ["add_arguments", "run"]
