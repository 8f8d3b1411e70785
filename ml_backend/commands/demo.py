"""See the whole loop on this machine: a real Label Studio on SQLite, this service, and 1,797 images of digits.

Without options it keeps running and says what to click. With --simulate N it plays an annotator who labels N tasks in
the order they are served, prints one row per round and exports the CSV; with --exit it then stops everything.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from pathlib import Path

from ml_backend.demo.annotator import Annotator
from ml_backend.demo.digits import write_digits
from ml_backend.demo.run import label_studio, project, service, welcome
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.services import Services


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=Path("demo-data"), help=("folder for everything it writes (default: %(default)s)")
    )
    parser.add_argument("--port", type=int, help="Label Studio's port (default: 8080, or a free one)")
    parser.add_argument("--backend-port", type=int, help="this service's port (default: 9090, or a free one)")
    parser.add_argument("--simulate", type=int, metavar="N", default=0, help="label N tasks as a person would")
    parser.add_argument("--pace", type=float, default=0.3, help="seconds the simulated annotator spends on an image")
    parser.add_argument("--exit", action="store_true", help="stop everything at the end")


def run(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped on that, too
    print("Writing 1,797 images of handwritten digits ...", flush=True)
    data: Path = args.data.resolve()
    truth = write_digits(data / "images" / "digits")
    with label_studio(args, data) as studio, service(args, data, studio) as settings:
        client = LabelStudio(studio.url, studio.token)
        project_id = project(client, data, list(truth), settings)
        demo = Annotator(client, Services.open(settings), project_id, truth)
        print("Waiting for the first queue ...", flush=True)
        demo.wait_for_queue()
        print(welcome(studio, settings, project_id, data), flush=True)
        if args.simulate:
            demo.simulate(args.simulate, args.pace)
            demo.export(data / "labels.csv")
        if not args.exit:
            print("\nPress Ctrl-C to stop everything.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    return 0
