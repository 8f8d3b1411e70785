"""The same as `ml-backend settings`."""

import sys
from collections.abc import Sequence

from ml_backend import cli


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(["settings", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
