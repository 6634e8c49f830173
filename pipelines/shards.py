"""The old name of `python -m pipelines.build`, kept for one release."""

import sys

from pipelines.build.__main__ import main

if __name__ == "__main__":
    print("python -m pipelines.shards is now python -m pipelines.build", file=sys.stderr)
    main()
