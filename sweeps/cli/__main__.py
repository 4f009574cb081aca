"""`python -m sweeps.cli` is `laresa`."""

import sys

from sweeps.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
