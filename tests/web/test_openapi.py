"""The HTTP service against what its OpenAPI allows and what it does not: no 5xx, and no answer that is not documented."""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.web.app import create_app
from tests.labelstudio.test_transport import Host, running
from tests.web.test_app import SETUP

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Any]:
    """A service with a project, and a Label Studio that has nothing."""
    with running(Host(reply=lambda *_: (404, {"detail": "Not found."}))) as studio:
        named = Settings(
            data_dir=tmp_path, label_studio_url=studio.url, label_studio_api_key="k", names=("testserver",)
        )
        services = Services.open(named)
        services.registry.register(studio.url, 3, SETUP["schema"], created=None)
        yield create_app(services)
        services.database.close()


def at_what_is_there(case: Any, project: str | None) -> Any:
    """The same case, aimed at the project that is there; None: at whatever was drawn."""
    if project is not None:
        if isinstance(case.body, dict) and "project" in case.body:
            case.body["project"] = project
        case.path_parameters = {
            name: {"number": 1, "host": "127-0-0-1"}.get(name, value) for name, value in case.path_parameters.items()
        }
    return case


def ask_everything(app: Any, examples: int) -> dict[str, Counter[int]]:
    """Send so many requests to each route, half of them such as the OpenAPI forbids. Returns what each answered how often."""
    schema = openapi.from_asgi("/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    answers: dict[str, Counter[int]] = {}
    for operation in operations:
        cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in _modes(operation)))

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases, project=st.sampled_from([None, "3", "3.1700000000"]))
        def ask(case: Any, project: str | None) -> None:
            answer = at_what_is_there(case, project).call_and_validate(checks=CHECKS)
            answers.setdefault(case.operation.label, Counter())[answer.status_code] += 1

        ask()
    return answers


def _modes(operation: Any) -> list[GenerationMode]:
    """A route without parameters and body cannot be asked wrongly."""
    takes = operation.body or operation.path_parameters or operation.query
    return [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if takes else [GenerationMode.POSITIVE]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
def test_no_request_that_the_openapi_allows_or_forbids_is_a_fault_of_the_service(app: Any) -> None:
    answers = ask_everything(app, 12)
    assert len(answers) >= 20
    good = [route for route, statuses in answers.items() if 200 in statuses]
    personal = [route for route, statuses in answers.items() if 403 in statuses]
    assert len(good) > (len(answers) - len(personal)) / 2, "most routes that ask for no person do what they are for"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nor_are_tens_of_thousands_of_them(app: Any) -> None:
    began = time.monotonic()
    answers = ask_everything(app, 400)
    asked = sum(statuses.total() for statuses in answers.values())
    print(f"\n{asked:,} requests to {len(answers)} routes in {time.monotonic() - began:.0f} s")
    assert asked >= 10_000
