"""Run the service: the web process that Label Studio calls, and the worker that trains. Stops both on Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import socket
import sys
from functools import partial

from ml_backend.encoders import compute
from ml_backend.errors import ConfigError
from ml_backend.settings import Settings
from ml_backend.store_identity import Store, look_for_former_folder, refuse_another
from ml_backend.web.access import require_closed
from ml_backend.worker import supervisor

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", choices=["web", "worker"], help=("run only one of the two, to use separate containers")
    )


def run(args: argparse.Namespace) -> int:
    settings = Settings.from_environ(os.environ)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if former := look_for_former_folder(settings, os.environ):
        logger.warning(former)
    check_device(settings)
    if args.only == "worker":
        refuse_another(settings)
    children = [
        supervisor.Child("web service", web_command(settings), partial(listen, settings)),
        supervisor.Child(
            "worker", [sys.executable, "-m", "ml_backend.worker.loop"], environment=worker_environment(settings.threads)
        ),
    ]
    if args.only:
        children = [child for child in children if child.name.startswith(args.only)]
    if args.only != "worker":
        require_closed(settings)
        listen(settings).close()  # before anything is kept
    print(f"Data folder: {Store.make(settings)}", file=sys.stderr, flush=True)
    return supervisor.run(children)


def check_device(settings: Settings) -> None:
    """Raises ConfigError where a device is asked for that is not there. Nobody waits for torch who asks for none."""
    compute.choose(settings.device, settings.threads)
    if settings.device not in {"auto", "cpu"}:
        compute.chosen_device()


def listen(settings: Settings) -> socket.socket:
    """Listen on the service's address. Raises ConfigError that names the setting to change."""
    host = settings.host.strip("[]")
    six = ":" in host
    family = socket.AF_INET6 if six else socket.AF_INET
    try:
        return socket.create_server((host, settings.port), family=family, backlog=2048, dualstack_ipv6=six)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"Port {settings.port} is in use, by a service that is already running or by another program: stop "
                "that, or choose another port with ML_BACKEND_PORT."
            ) from error
        why = (error.strerror or str(error)).partition(" (while")[0]
        raise ConfigError(
            f"Cannot listen on {host}, port {settings.port} ({why}): change ML_BACKEND_HOST or ML_BACKEND_PORT."
        ) from error


def worker_environment(threads: int | None = None) -> dict[str, str]:
    """It computes with a thread fewer than there are cores, or as many as were set, and its threads sleep where they wait.

    Those of a training wait for each other thousands of times. Where Label Studio has one of the cores, and the worker stands
    back for it, they would spin while one of them waits for that core: 40 seconds instead of two were measured.
    """
    return {"OMP_NUM_THREADS": str(threads or max(compute.cores() - 1, 1)), "OMP_WAIT_POLICY": "PASSIVE"}


def web_command(settings: Settings) -> list[str]:
    """One web process: a model is in memory once, and requests share it in threads."""
    options = [
        "--config",
        "python:ml_backend.web.gunicorn_config",
        "--bind",
        "fd://{socket}",
        "--workers",
        "1",
        "--worker-class",
        "ml_backend.web.http_limits.BoundedWorker",
    ]
    quiet = ["--timeout", "120", "--graceful-timeout", "10", "--log-level", settings.log_level.lower()]
    return [sys.executable, "-m", "gunicorn", *options, *quiet, "ml_backend.web.app:app()"]
