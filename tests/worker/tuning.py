"""A worker that fine-tunes a small network, on a Label Studio in memory; as a process, it does one turn of the project.

python -m tests.worker.tuning FOLDER: keeps how far it is after every batch, and rests a little then, so that it can be killed.
"""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ml_backend.encoders.networks import NetworkEncoder, Preprocessing, headless, new_network
from ml_backend.learning import checkpoint
from ml_backend.learning.checkpoint import Checkpoint
from ml_backend.learning.finetuning import Refitted
from ml_backend.learning.tuning_run import Recipe
from ml_backend.services import Services
from ml_backend.steps import tune_network
from ml_backend.store.projects import Project
from ml_backend.worker.loop import Worker
from tests.other_settings import use
from tests.steps import test_large_projects as large

SIDE, LABELLED = 32, 60
EPOCHS = 5
REST_S = 0.1


def network() -> NetworkEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, dim = headless(new_network("mobilenet_v3_small"))
    return NetworkEncoder("mobilenet_v3_small", body, dim, Preprocessing(resize=SIDE, crop=SIDE))


def tuning(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Services, Project]:
    """The service as it is set to fine-tune, with a project whose first labels are there."""
    patch.setattr("ml_backend.steps.push_queue.QueuePusher.serve", large.served)
    patch.setattr("ml_backend.steps.push_queue.QueuePusher.tidy", lambda *_, **__: None)
    patch.setattr("ml_backend.steps.repair_webhooks.watch", lambda *_, **__: None)
    patch.setattr("ml_backend.project_encoders.ProjectEncoders.of", lambda *_: network())
    patch.setattr(tune_network, "Recipe", partial(Recipe, epochs=EPOCHS, batch_size=16))
    patch.setattr(Refitted, "better", True)  # whatever a few epochs come to
    patch.setattr(checkpoint, "EVERY_S", 0.0)
    patch.setattr(checkpoint, "OVERHEAD", 0.0)
    services = large.services_in(folder)
    use(services, mode="finetune")
    return services, large.connected(services, large.Host(LABELLED + 20, labelled=LABELLED))


def main(folder: Path) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    torch.set_num_threads(1)
    write = Checkpoint.write

    def slowly(kept: Checkpoint, *arguments: Any) -> None:
        write(kept, *arguments)
        time.sleep(REST_S)

    with pytest.MonkeyPatch.context() as patch:
        services, project = tuning(folder, patch)
        patch.setattr(Checkpoint, "write", slowly)
        worker = Worker(services)
        worker._take_over()
        services.jobs.mark_due(project, immediately=True, reason="test")
        worker.work()
        services.database.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
