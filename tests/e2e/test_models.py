"""Models in and out, and projects with several labels an image, on a real Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ml_backend.demo.digits import CLASSES
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.encoders.vision import torchvision
from ml_backend.errors import InvalidInputError
from ml_backend.exports.label_rows import export_rows
from ml_backend.imports.trained_model import ModelSource
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.results import annotation_result
from ml_backend.learning.export_formats import load_bundle
from tests.e2e.stack import Stack, inline

KINDS = ("even", "odd", "small", "large")


def kinds_of(digit: str) -> list[str]:
    return ["odd" if int(digit) % 2 else "even", "small" if int(digit) < 5 else "large"]


@pytest.fixture
def state_dict(tmp_path: Path) -> Path:
    """A resnet18 state dict as torchvision's training scripts write it, of ten classes, knowing nothing."""
    torch.manual_seed(0)
    network = torchvision().models.resnet18(num_classes=10)
    save_file(network.state_dict(), tmp_path / "digits.safetensors", {"classes": ",".join(CLASSES)})
    return tmp_path / "digits.safetensors"


@pytest.fixture
def stack(label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path) -> Iterator[Stack]:
    with inline(label_studio, client, tmp_path, tasks=150, prelabels="always") as stack:
        yield stack


def accuracy(stack: Stack, number: int) -> float:
    """Share of all tasks that a version gets right."""
    model, features, ledger = (
        stack.services.predictor.load(stack.project, number),
        stack.services.features,
        stack.services.ledger,
    )
    tasks = list(ledger.tasks(stack.project))
    hashes = ledger.content_hashes(stack.project, tasks)
    rows = features.rows(model.encoder.id, [hashes[task.id] for task in tasks])
    vectors = features.matrix(model.encoder.id)[rows]
    answers = model.head.predict_proba(vectors).argmax(1)
    return float(np.mean([CLASSES[a] == stack.truth[t.data["filename"]] for a, t in zip(answers, tasks, strict=True)]))


def test_an_imported_classifier_predicts_before_any_label_and_is_better_after_fifty(
    stack: Stack, state_dict: Path
) -> None:
    version, match = stack.services.model_importer.start_from(
        stack.project, ModelSource(state_dict, model_type="resnet18")
    )
    assert version.name == "v1"
    assert sorted(match.matched) == sorted(CLASSES)
    first = stack.turn()
    assert first.served_name == "v1-r1"
    shown = stack.client.predictions_of(stack.project_id, stack.ranking(first))
    served = [p for given in shown.values() for p in given if p["model_version"] == first.served_name]
    assert sum(bool(prediction["result"]) for prediction in served) == 18
    for _ in range(50):
        if next_task(stack.client, stack.project_id) is None:
            stack.turn()
        stack.label_next()
    stack.turn()
    latest = stack.services.versions.current(stack.project)
    assert latest is not None
    assert latest.number > 1
    assert accuracy(stack, latest.number) > accuracy(stack, 1) + 0.2


def test_a_version_is_taken_away_and_starts_another_project(stack: Stack, client: LabelStudio, tmp_path: Path) -> None:
    stack.turn()
    for _ in range(20):
        stack.label_next()
    stack.turn()
    version = stack.services.versions.current(stack.project)
    assert version is not None
    export = stack.services.model_exporter.save
    for kind in ("pt2", "onnx"):
        saved = export(stack.project, version, kind, tmp_path / f"model.{kind}")
        assert saved.difference < 1e-3
    saved = export(stack.project, version, "bundle", tmp_path / "bundle")
    assert load_bundle(saved.path)[1].classes == CLASSES
    again, _ = stack.services.model_importer.start_from(stack.project, ModelSource(saved.path))
    assert accuracy(stack, again.number) == accuracy(stack, version.number)
    with pytest.raises(InvalidInputError, match="--model-type"):
        stack.services.model_importer.start_from(stack.project, ModelSource(tmp_path / "model.onnx"))


def test_several_labels_an_image_from_the_first_answer_to_the_csv(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    config = label_config(KINDS, multiple=True)
    with inline(label_studio, client, tmp_path, tasks=120, config=config, prelabels="always") as stack:
        assert stack.project.schema.multiple
        stack.turn()
        labelled = {}
        for _ in range(38):
            task = next_task(client, stack.project_id)
            if task is None:
                break
            kinds = kinds_of(stack.truth[task["data"]["filename"]])
            submit(client, task, annotation_result(stack.schema, kinds))
            labelled[task["data"]["filename"]] = set(kinds)
        round_ = stack.turn()
        assert round_.version == 1
        version = stack.services.versions.current(stack.project)
        assert version is not None
        assert version.meta.metrics.holdout is not None
        assert version.meta.metrics.holdout["n"] >= 10
        predictions = client.predictions_of(stack.project_id, stack.ranking(round_))
        shown = [p for given in predictions.values() for p in given if p["model_version"] == round_.served_name]
        chosen = [prediction["result"][0]["value"]["choices"] for prediction in shown if prediction["result"]]
        assert any(len(choices) > 1 for choices in chosen)
        rows = list(export_rows(stack.services.ledger.rows(stack.project)))
        assert {row["filename"]: set(row["label"].split("|")) for row in rows} == labelled
