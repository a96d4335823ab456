"""`python -m exporter`: the same as `penstock-export`."""

import sys

from exporter.cli import main

sys.exit(main())
