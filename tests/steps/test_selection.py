"""What a project learns, when its label config changes under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from ml_backend.errors import InvalidInputError
from ml_backend.labelstudio.checks import added
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.records import ProjectKey, Selection
from ml_backend.services import Services
from ml_backend.settings import Settings
from tests.label_configs import IMAGE, KIND, MOOD

HOST = "http://localhost:8080"
BOTH = f"<View>{IMAGE}{KIND}{MOOD}</View>"
MOOD_GONE = f"<View>{IMAGE}{KIND}</View>"


class OneProject(LabelStudio):
    """A Label Studio with one project, whose label config can be changed."""

    def __init__(self) -> None:
        self.config = BOTH
        self.extra_params: Any = None

    def get_project(self, project_id: int) -> dict[str, Any]:
        return {"id": project_id, "title": "Pets", "label_config": self.config, "maximum_annotations": 1}

    def backends(self, project_id: int) -> list[dict[str, Any]]:
        return [{"extra_params": None}, {"extra_params": self.extra_params}]


@pytest.fixture
def services(services: Services) -> Services:
    services.hosts._clients[HOST] = OneProject()
    return services


def test_what_was_selected_holds_when_the_config_is_read_again(services: Services) -> None:
    project = services.registry.register(HOST, 3, BOTH, created=1, selection=Selection("mood"))
    assert services.label_sync.refresh(project).schema.labels == ("calm", "cross")
    assert services.registry.register(HOST, 3, BOTH, created=1).schema.labels == ("calm", "cross")


def test_a_selection_whose_choices_go_away_is_told_loses_nothing_and_goes_on_when_they_are_back(
    services: Services,
) -> None:
    host = cast("OneProject", services.hosts.client(HOST))
    project = services.registry.register(HOST, 3, BOTH, created=1, selection=Selection("mood"))
    job = services.jobs.claim("w")
    assert job is not None
    services.jobs.finish(job)
    host.config = MOOD_GONE
    with pytest.raises(InvalidInputError, match=r'no <Choices name="mood">.*it has kind'):
        services.label_sync.refresh(project)
    assert services.ledger.project(ProjectKey(HOST, 3)).schema.from_name == "mood"
    assert services.registry.register(HOST, 3, BOTH, created=1).schema.from_name == "mood"
    assert services.jobs.status(project).due is not None, "the config that is back is a change"


def test_the_setting_names_the_choices_of_projects_that_do_not_say(tmp_path: Path) -> None:
    opened = Services.open(Settings(data_dir=tmp_path, label_studio_api_key="k", choices="mood"))
    assert opened.registry.register(HOST, 1, BOTH, created=1).schema.from_name == "mood"
    assert opened.registry.register(HOST, 2, MOOD_GONE, created=1).schema.from_name == "kind"
    assert opened.registry.register(HOST, 3, BOTH, created=1, selection=Selection("kind")).schema.from_name == "kind"
    opened.database.close()


def test_a_name_that_is_selected_later_leaves_the_other_as_it_was() -> None:
    kept: list[dict[str, Any]] = [{"extra_params": None}, {"extra_params": {"choices": "kind", "image": "img"}}]
    assert added(Selection("mood"), kept) == Selection("mood", "img")
    assert added(None, kept) == Selection("kind", "img")
    assert added(Selection(image="img"), []) == Selection(None, "img")


def test_a_command_without_the_store_learns_what_label_studio_keeps_with_the_model() -> None:
    host = OneProject()
    host.extra_params = {"choices": "kind"}
    assert host.schema(3, default=Selection("mood")).from_name == "kind"
    host.extra_params = None
    assert host.schema(3, default=Selection("mood")).from_name == "mood"
    with pytest.raises(InvalidInputError, match="--choices NAME"):
        host.schema(3)
