"""Part of steps 1 and 5: only the store that a project in Label Studio belongs to reads and pushes for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ml_backend.errors import AnotherStoreError
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.ownership import Owner, claim, require_own
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project


def check(project: Project, remote: Mapping[str, Any], ledger: Ledger, store_id: str) -> bool:
    """Whether `remote`, the project as Label Studio has it now, bears our mark; it may bear none.

    Raises AnotherStoreError where it is another store's; that is kept with the project, for the status.
    """
    said = project.state.another_store
    made = partial(ledger.made, project.key)
    try:
        marked = require_own(dict(remote), store_id, made) is not None
    except AnotherStoreError as error:
        if said != str(error):
            ledger.configure(project, another_store=str(error))
        raise
    if said:
        ledger.configure(project, another_store=None)
    return marked


def hold(project: Project, *, client: LabelStudio, ledger: Ledger, store_id: str) -> None:
    """Before a push: make sure that the project is ours, now, and bears our mark. Raises AnotherStoreError."""
    remote = client.get_project(project.key.project_id)
    if not check(project, remote, ledger, store_id):
        claim(client, remote, Owner.here(store_id))
