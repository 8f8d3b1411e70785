"""A service that goes on with other settings, as one that was started again would."""

from __future__ import annotations

from typing import Any

from ml_backend.services import Services
from ml_backend.settings import Settings


def use(services: Services, **changes: Any) -> Settings:
    settings = Settings(**dict(services.settings) | changes)
    for holder in (services, services.hosts, services.registry, services.predictor, services.encoders):
        holder.settings = settings
    services.encoders.built.clear()
    return settings
