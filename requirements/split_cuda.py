"""Split a compiled lock file: CUDA's packages go to a file of their own, for PyTorch's CUDA build alone.

PyTorch's CPU build needs none of them, and they are several gigabytes. `--torch-hash` adds the hash of a CPU build that
is published beside the default one under the same version number.
"""

import argparse
import re
import sys
from pathlib import Path

CUDA = re.compile(r"^(nvidia-|cuda-|triton)")
OURSELVES = re.compile(r"^(\.|-e )")


def entries(text: str) -> list[str]:
    """One requirement with its hashes each."""
    return re.findall(r"^[^\s#].*(?:\n[ \t]+.*)*", text, flags=re.MULTILINE)


def with_hashes(entry: str, digests: list[str]) -> str:
    """PyTorch's entry with these hashes, too; any other as it is."""
    new = [digest for digest in digests if entry.startswith("torch==") and digest not in entry]
    return entry + "".join(f" \\\n    --hash=sha256:{digest}" for digest in new)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("compiled", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("cuda", type=Path)
    parser.add_argument("--torch-hash", action="append", default=[])
    args = parser.parse_args(argv)
    found = [entry for entry in entries(args.compiled.read_text()) if not OURSELVES.match(entry)]
    base = [with_hashes(entry, args.torch_hash) for entry in found if not CUDA.match(entry)]
    args.base.write_text("\n".join(base) + "\n")
    args.cuda.write_text("\n".join(entry for entry in found if CUDA.match(entry)) + "\n")
    print(f"{args.base}: {len(base)} packages; {args.cuda}: {len(found) - len(base)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
