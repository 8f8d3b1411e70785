"""Run the service: the web process that Label Studio calls, and the worker that trains. Stops both on Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from ml_backend import supervisor
from ml_backend.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=["web", "worker"], help="run one of the two, for containers of their own")


def run(args: argparse.Namespace) -> int:
    settings = Settings.from_environ(os.environ)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    children = [
        supervisor.Child("web service", web_command(settings)),
        supervisor.Child("worker", [sys.executable, "-m", "ml_backend.worker"]),
    ]
    if args.only:
        children = [child for child in children if child.name.startswith(args.only)]
    return supervisor.run(children)


def web_command(settings: Settings) -> list[str]:
    """One web process: a model is in memory once, and requests share it in threads."""
    bind = f"{settings.host}:{settings.port}"
    options = [
        "--config",
        "python:ml_backend.web",
        "--bind",
        bind,
        "--workers",
        "1",
        "--worker-class",
        "uvicorn.workers.UvicornWorker",
    ]
    quiet = ["--timeout", "120", "--graceful-timeout", "10", "--log-level", settings.log_level.lower()]
    return [sys.executable, "-m", "gunicorn", *options, *quiet, "ml_backend.server:app()"]
