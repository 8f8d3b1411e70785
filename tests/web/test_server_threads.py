"""Whoever waits for slow images keeps nobody else waiting: events are noted and /setup answers all the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from ml_backend.services import Services
from ml_backend.web.app import create_app
from tests.web.test_app import SETUP

MANY = 100
"""More than all threads that the web server has."""


class Slow:
    """A predictor whose images do not come before `released`."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.waiting = threading.Semaphore(0)

    def predict(self, _project: object, tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self.waiting.release()
        assert self.released.wait(60)
        return [{"result": [], "score": 0.0, "model_version": "v0-r0"} for _ in tasks]

    def served_name(self, _project: object) -> str:
        return "v0-r0"


def test_events_are_noted_and_setup_answers_while_every_prediction_waits_for_slow_images(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    monkeypatch.setattr(services, "predictor", slow)
    asyncio.run(_while_predictions_wait(services, slow))


async def _while_predictions_wait(services: Services, slow: Slow) -> None:
    transport = httpx.ASGITransport(create_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        await client.post("/setup", json=SETUP)
        body = {"tasks": [{"id": 1, "data": {}}], "project": "3"}
        predictions = [asyncio.create_task(client.post("/predict", json=body)) for _ in range(MANY)]
        try:
            assert await asyncio.to_thread(slow.waiting.acquire, timeout=60)
            event = {"action": "TASKS_CREATED", "project": {"id": 3}, "tasks": [{"id": 1}]}
            for path, sent in (("/webhook", event), ("/setup", SETUP)):
                answer = await asyncio.wait_for(client.post(path, json=sent), timeout=30)
                assert answer.status_code == 200
            assert (await asyncio.wait_for(client.get("/health"), timeout=30)).status_code == 200
            assert not any(prediction.done() for prediction in predictions)
        finally:
            slow.released.set()
        assert {answer.status_code for answer in await asyncio.gather(*predictions)} == {200}
