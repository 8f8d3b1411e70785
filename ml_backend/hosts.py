"""The Label Studio hosts of this service and their projects: which one a request means, and making a project known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from ml_backend.errors import ConflictError, NotFoundError, TooManyError
from ml_backend.host_lists import HostList
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import NOTHING, parse_label_config
from ml_backend.labelstudio.media import ImageReader
from ml_backend.records import LabelSchema, ProjectKey, Selection
from ml_backend.settings import Settings
from ml_backend.store.consensus import ConsensusRule, Vote
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project

MOST_UNREAD = 100
"""Projects of a host that were connected and never read; more are refused."""
VOTES: dict[str, Vote] = {"majority": "majority", "latest": "most_recent", "exclude": "unanimous"}
"""ML_BACKEND_CONFLICTS in the words of the consensus rule."""


@dataclass
class Hosts:
    """The hosts in the settings, with one HTTP session and one reader of images each."""

    settings: Settings
    _clients: dict[str, LabelStudio] = field(default_factory=dict)
    _readers: dict[str, ImageReader] = field(default_factory=dict)

    def client(self, host: str) -> LabelStudio:
        """Return the client of a Label Studio host. Raises NotFoundError for a host without a key."""
        if host not in self._clients:
            if not (key := self.settings.hosts().get(host)):
                fix = "set LABEL_STUDIO_API_KEY, or add it to LABEL_STUDIO_API_KEYS."
                raise NotFoundError(f"No access token for {host}: {fix}")
            self._clients[host] = LabelStudio(host, key)
        return self._clients[host]

    def images(self, host: str) -> ImageReader:
        if host not in self._readers:
            only = len(self.settings.hosts()) == 1
            self._readers[host] = ImageReader(
                self.client(host).transport,
                hosts=HostList(self.settings.image_hosts),
                media_root=self.settings.media_root if only else None,
                document_root=self.settings.document_root if only else None,
                seconds=self.settings.image_seconds,
            )
        return self._readers[host]

    def close(self) -> None:
        """Close the sessions; asked again, new ones are opened."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._readers.clear()

    def named(self, slug: str | None, hostname: str | None) -> str:
        """Return the Label Studio host that a request comes from, by the address it called or the name it gave."""
        hosts = list(self.settings.hosts())
        if slug is not None:
            for host in hosts:
                if host_slug(host) == slug:
                    return host
            raise NotFoundError(
                f"This service has no Label Studio host called {slug!r}: add it to LABEL_STUDIO_API_KEYS."
            )
        if hostname and hostname.rstrip("/") in hosts:
            return hostname.rstrip("/")
        if len(hosts) == 1:
            return hosts[0]
        raise ConflictError(
            f"This backend serves several Label Studio hosts, and {hostname or 'this one'} is not one of them: "
            f"connect it with the address {self.settings.url}/hosts/<name>, where <name> is one of "
            f"{', '.join(host_slug(host) for host in hosts)}."
        )

    def backend_url(self, host: str) -> str:
        """The address to give to a Label Studio host, which tells its projects from other hosts' projects."""
        return f"{self.settings.url}/hosts/{host_slug(host)}"


@dataclass
class Registry:
    """The projects that were connected to this service."""

    hosts: Hosts
    ledger: Ledger
    jobs: Jobs
    settings: Settings

    def __post_init__(self) -> None:
        self.rule = ConsensusRule(vote=VOTES[self.settings.conflicts], tie="most_recent")

    def register(
        self,
        host: str,
        project_id: int,
        label_config: str,
        *,
        created: int | None,
        selection: Selection | None = None,
    ) -> Project:
        """Make a project known, or note its new label config or selection; a new or changed one is due at once.

        selection: which choices and image to learn; None leaves what was selected before.
        """
        key = ProjectKey(host, project_id)
        known = next((p for p in self.ledger.projects() if p.key == key), None)
        if known is not None and is_another(known, created):
            # Said by whoever calls; the next turn asks Label Studio itself, and begins anew if it is so.
            self.jobs.mark_due(known, immediately=True, reason="set up")
            return known
        selection = selection or selected(known)
        schema = self.schema(label_config, selection)
        if known is not None and (known.label_config, known.schema) == (label_config, schema):
            changes = {"created": created or known.state.created, **vars(selection)}
            return known if known.state.changed(**changes) == known.state else self.ledger.configure(known, **changes)
        if known is None:
            self._refuse_many_unread(host)
        title = known.title if known else f"project {project_id}"
        project = self.ledger.upsert_project(
            key,
            title=title,
            label_config=label_config,
            schema=schema,
            rule=self.rule,
            state=vars(selection) | ({"created": created} if created else {}),
        )
        self.jobs.mark_due(project, immediately=True, reason="set up" if known is None else "label config changed")
        return project

    def schema(self, label_config: str, selection: Selection) -> LabelSchema:
        """What is to be learned: the selected choices and image, or those that the settings name for all projects."""
        return parse_label_config(label_config, selection, default=self.settings.selection)

    def find_project(self, slug: str | None, project_id: int, created: int | None) -> Project:
        """Return the project that a request means. Raises NotFoundError, or ConflictError where it could be several."""
        if slug is not None:
            return _same(self.ledger.project(ProjectKey(self.hosts.named(slug, None), project_id)), created)
        found = [p for p in self.ledger.projects() if p.key.project_id == project_id]
        if len(found) > 1 and created is not None:
            found = [p for p in found if p.state.created == created]
        if not found:
            raise NotFoundError(
                f"Project {project_id} is not connected to this service: run `ml-backend setup-project`, or open "
                "its Model settings in Label Studio."
            )
        if len(found) > 1:
            raise ConflictError(
                f"Several Label Studio hosts have a project {project_id}: connect each with its own address, "
                f"{self.settings.url}/hosts/<name>, as `ml-backend setup-project` does."
            )
        return _same(found[0], created)

    def find_key(self, slug: str | None, project_id: int) -> ProjectKey:
        """Name the project that an event is about. With the host in the address that takes no look into the store."""
        if slug is not None:
            return ProjectKey(self.hosts.named(slug, None), project_id)
        return self.find_project(None, project_id, None).key

    def _refuse_many_unread(self, host: str) -> None:
        """Whoever may connect a model could name any number of projects, each of which would cost rows and turns."""
        unread = [p for p in self.ledger.projects() if p.key.host == host and p.reconciled_at is None]
        if len(unread) >= MOST_UNREAD:
            raise TooManyError(
                f"{len(unread)} projects were connected that could not be read from {host} yet: see in the log why, and "
                "connect further ones once some of them have been read."
            )


def selected(project: Project | None) -> Selection:
    """What was selected for the project, when it was set up."""
    return Selection(project.state.choices, project.state.image) if project else NOTHING


def created_at(remote: Mapping[str, Any]) -> int | None:
    """When Label Studio made the project, in seconds, as it tells its ML backends; None where it does not say."""
    said = remote.get("created_at")
    return int(datetime.fromisoformat(said).timestamp()) if said else None


def is_another(known: Project, created: int | None) -> bool:
    """Whether a project of that time of creation is another one, under the number of the one that is known."""
    return None not in {created, known.state.created} and known.state.created != created


def _same(known: Project, created: int | None) -> Project:
    if is_another(known, created):
        raise ConflictError(
            f"{known.key} is another project than the one that is known here: it is made known by the next turn. Run "
            "`ml-backend sync run`, or try again."
        )
    return known


def host_slug(host: str) -> str:
    """Name of a host for use in an address: its network location, in letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", urlsplit(host).netloc.lower() + urlsplit(host).path.lower()).strip("-")
