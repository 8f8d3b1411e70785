"""The same as `ml-backend setup-project`."""

import sys
from collections.abc import Sequence

from ml_backend import cli


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(["setup-project", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
