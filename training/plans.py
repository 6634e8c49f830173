"""The old name of `python -m training.pack_plan`, kept for one release."""

import sys

from training.pack_plan import main

if __name__ == "__main__":
    print("python -m training.plans is now python -m training.pack_plan", file=sys.stderr)
    main()
