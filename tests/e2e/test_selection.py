"""Several choices and images in one label config, from the first refusal to the queue, on a real Label Studio."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from ml_backend import cli
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.results import annotation_result
from tests.e2e.stack import running
from tests.label_configs import ANOTHER, IMAGE, KIND, MOOD

SEVERAL = f"<View>{IMAGE}{ANOTHER}{KIND}{MOOD}</View>"


def test_label_studio_takes_the_configs_made_here(client: LabelStudio) -> None:
    """Few and many labels, with all that XML, HTML and CSS give a meaning."""
    for labels in (["it's", 'say "hi"', "a & b", "<b>", "{x}", "日本"], [str(number) for number in range(60)]):
        for multiple in (False, True):
            made = client.create_project("made here", label_config(labels, multiple=multiple))
            assert list(client.schema(int(made["id"])).labels) == labels
            client.import_tasks(int(made["id"]), [{"image": "/a.png"}])
            (task,) = client.tasks(int(made["id"]))
            client.create_annotation(task.id, annotation_result(client.schema(int(made["id"])), labels[:1]))
            ((_, (annotation,)),) = client.annotated(int(made["id"]))
            assert annotation.labels == tuple(labels[:1])


def test_what_is_selected_among_several_goes_from_the_command_to_the_service_and_back(
    label_studio: EmbeddedLabelStudio,
    client: LabelStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running(label_studio, client, tmp_path, tasks=30) as stack:
        settings = stack.settings
        for name, value in {
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.token,
            "ML_BACKEND_DATA_DIR": str(settings.data_dir),
            "ML_BACKEND_URL": settings.url,
        }.items():
            monkeypatch.setenv(name, value)

        def said(*arguments: object) -> tuple[int, str]:
            code = cli.main([str(argument) for argument in arguments])
            captured = capsys.readouterr()
            return code, captured.out + captured.err

        project = int(client.create_project("several", SEVERAL.replace("$photo", "$image"))["id"])
        code, told = said("setup-project", "--project", project)
        assert (code, "--choices NAME --image NAME" in told) == (1, True), told
        code, told = said("setup-project", "--project", project, "--choices", "mood", "--image", "img")
        assert code == 0, told
        known = stack.services.registry.find_project(None, project, None)
        assert (known.schema.from_name, known.schema.image_key) == ("mood", "image")
        code, told = said("setup-project", "--project", project)
        assert (code, "everything was right already" in told) == (0, True), told
        assert 'labels of "mood" are learned from the image in "image"' in told
        assert client.schema(project) == known.schema
        code, told = said("setup-project", "--project", project, "--choices", "kind", "--image", "img")
        assert code == 0, told
        assert stack.services.registry.find_project(None, project, None).schema.labels == ("cat", "dog")


def test_label_studio_shows_why_a_config_is_refused_to_whoever_connects_the_model(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    with running(label_studio, client, tmp_path, tasks=30) as stack:
        project = int(client.create_project("several", SEVERAL)["id"])
        backend = {"project": project, "url": stack.settings.url, "title": "by hand"}
        told = client.transport.send("POST", "/api/ml/", json=backend).text
        assert "2_Choices_about_images_(kind,_mood)_and_2_images_(img,_back)" in told
        assert "setup-project_--choices_NAME_--image_NAME" in told
        answer = client.transport.send("POST", "/api/ml/", json={**backend, "extra_params": "choices=kind, image=back"})
        assert answer.status_code == requests.codes.created, answer.text
        assert stack.services.registry.find_project(None, project, None).schema.image_key == "back"
