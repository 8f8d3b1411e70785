"""The scripts of a page stand beside each other in one place: what two of them call the same stops the second one whole."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from pathlib import Path

import pytest

from ml_backend.web.own_pages import PAGES, STATIC, templates

DECLARED = re.compile(r"^(?:async )?(?:let|const|var|function\*?|class) ([\w$]+)|^const \{([^}]*)\}", re.MULTILINE)
NAMES = sorted(
    path.name
    for path in PAGES.glob("*.html")
    if path.name != "shell.html" and any(mark in path.read_text(encoding="utf-8") for mark in ("<!doctype", "extends"))
)


def scripts(page: str) -> list[Path]:
    """Of our own, in the order in which the page has them."""
    told = {"title": "", "host": "", "hosts": [""], "root": "", "version": "1", "operator": True, "number": 1}
    text = templates().get_template(page).render(told)
    return [STATIC / name for name in re.findall(r'src="[^"]*static/([\w./-]+\.js)', text)]


@pytest.mark.parametrize("page", NAMES)
def test_no_two_scripts_of_a_page_declare_the_same_name(page: str) -> None:
    found = scripts(page)
    assert found, "a page has scripts"
    declared = [name for path in found for name, _ in DECLARED.findall(path.read_text(encoding="utf-8")) if name]
    assert [name for name, times in Counter(declared).items() if times > 1] == []


@pytest.mark.parametrize("page", NAMES)
def test_the_scripts_of_a_page_weigh_50_kilobytes_at_most(page: str) -> None:
    found = scripts(page)
    assert len(found) >= (9 if page == "project.html" else 2)
    assert sum(len(gzip.compress(path.read_bytes())) for path in found) <= 50_000
