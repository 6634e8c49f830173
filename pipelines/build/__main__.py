"""Makes everything that is not current, as `shardmill run` does, but without Prefect.

`python -m pipelines.build my.toml --until ocr`
"""

import argparse
import sys
from dataclasses import asdict

from pipelines.build.run import run
from pipelines.catalog.gates import GateFailed
from pipelines.engine.lock import Busy
from pipelines.engine.root import Corrupt, fault
from pipelines.engine.secrets import hidden
from pipelines.engine.worker import StageFailed
from schemas.errors import UserError
from schemas.printable import printable_line


def main() -> None:
    """Exits with 2 after a mistake of the user, with 1 after a failed run; each prints one line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.build", description=str(__doc__).split("\n")[0])
    parser.add_argument("config", metavar="CONFIG", help="configuration, a TOML file")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage, such as images")
    args = parser.parse_args()
    try:
        for report in run(args.config, args.until):
            print(asdict(report))
    except UserError as error:
        sys.exit(_say(error, 2))
    except (Busy, Corrupt, GateFailed, StageFailed) as error:
        sys.exit(_say(error, 1))
    except OSError as error:
        if not (line := fault(error)):
            raise
        sys.exit(_say(line, 1))


def _say(error: Exception | str, code: int) -> int:
    print(f"shardmill: {printable_line(hidden(str(error)))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
