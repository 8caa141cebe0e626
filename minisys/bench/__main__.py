"""``python -m minisys.bench TOPIC``."""

import sys

from minisys.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
