"""What axe-core says of a page of ours as it stands in the browser."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
GRAVE = ("serious", "critical")


@cache
def _source() -> str:
    return "() => {" + AXE.read_text(encoding="utf-8") + "\n}"


def violations(page: Page) -> list[str]:
    """The serious and critical ones, a line each: the rule, what is wrong, and where. [] for none.

    The source is evaluated by the browser's debugger, which the page's Content-Security-Policy does not concern.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(_source())
    found: dict[str, Any] = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    assert found["testEngine"]["name"] == "axe-core"
    assert found["passes"], "axe-core has found nothing to look at"
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['target'][0]}: {_why(node)}"
        for rule in found["violations"]
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]


def _why(node: dict[str, Any]) -> str:
    return " ".join(str(node.get("failureSummary", "")).split())[:300]
