"""The tour in the README names every module there is, its steps stay few, and the pages name commands that exist."""

import re
from pathlib import Path

import pytest

from tests.documented import named_commands, parsers
from tests.test_architecture import ROOMS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_has_one_line_a_room_in_the_order_of_their_imports() -> None:
    tree = README.split("## How it works")[1].split("```")[1]
    named = re.findall(r"^  (\w+)(?:\.py|/) {2,}\S", tree, re.MULTILINE)
    assert named == list(ROOMS)


def test_the_tree_names_no_module_that_is_not_there() -> None:
    tree = README.split("## How it works")[1].split("```")[1]
    named = re.findall(r"\b(\w+\.py)\b", tree)
    assert [name for name in named if not (ROOT / "ml_backend" / name).exists()] == []


def test_one_label_is_followed_through_at_most_eight_files_each_opened_once() -> None:
    tour = README.split("One label, from webhook to queue:")[1].split("A strategy is")[0]
    opened = re.findall(r"`([\w/]+\.py)`", tour)
    assert 1 <= len(opened) == len(set(opened)) <= 8
    assert [name for name in opened if not (ROOT / "ml_backend" / name).exists()] == []


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.stem
)
def test_a_command_that_a_page_names_in_passing_exists_with_its_options(page: Path) -> None:
    known = dict(parsers())
    for words in named_commands(page.read_text(encoding="utf-8")):
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, f"{page.name}: ml-backend {' '.join(words)}"
        unknown = {word for word in words if word.startswith("--")} - set(known[name]._option_string_actions)
        assert not unknown, f"{page.name}: ml-backend {' '.join(words)}"


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.stem
)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()] == []
