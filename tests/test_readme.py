"""The tour in the README names every room, its steps stay few, and what the pages name is there."""

import re
from pathlib import Path

import pytest

from docs.generate_commands import parsers
from tests.documented import named_commands
from tests.test_architecture import ROOMS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


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


@pytest.mark.slow
@each_page
def test_a_command_that_a_page_names_in_passing_exists_with_its_options(page: Path) -> None:
    known = dict(parsers())
    for words in named_commands(page.read_text(encoding="utf-8")):
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, f"{page.name}: ml-backend {' '.join(words)}"
        unknown = {word for word in words if word.startswith("--")} - set(known[name]._option_string_actions)
        assert not unknown, f"{page.name}: ml-backend {' '.join(words)}"


@each_page
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()] == []


@each_page
def test_files_and_modules_that_a_page_names_are_there(page: Path) -> None:
    assert missing(page.read_text(encoding="utf-8"), page.parent) == []


@each_page
def test_what_a_page_says_to_make_is_a_target(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)) <= targets


def test_pages_that_a_docstring_refers_to_are_there() -> None:
    for path in (ROOT / "ml_backend").rglob("*.py"):
        for named in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text(encoding="utf-8")):
            assert (ROOT / named).exists(), f"{path}: {named}"


def test_the_checks_of_names_notice_what_is_not_there() -> None:
    gone = "`ml_backend/model.py`, `steps/think.py`, ml_backend.model, ml_backend.cycle.walk, tests/test_nothing.py::test_it"
    there = "`ml_backend/cycle.py`, `steps/train.py` in ml_backend/, ml_backend.web.app.create_app, docs/commands.md"
    assert len(missing(gone, ROOT)) == 5
    assert missing(there, ROOT) == []


def missing(text: str, folder: Path) -> list[str]:
    """Paths and dotted names in a page of this folder that lead nowhere."""
    rooms = "|".join(ROOMS)
    paths = re.findall(r"(?<![\w/.-])(?:ml_backend|tests|scripts|benchmarks|docs|requirements)/[\w/.-]*", text)
    paths += re.findall(rf"(?<![\w/.-])(?:{rooms})/[\w/]+\.py\b", text)
    places = (ROOT, ROOT / "ml_backend", folder)
    lost = [path for path in paths if not any((place / path.rstrip("./")).exists() for place in places)]
    return lost + [name for name in re.findall(r"\b(?:ml_backend|benchmarks)(?:\.\w+)+", text) if not defined(name)]


def defined(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module has at its top."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    module = path.parent.with_suffix(".py")
    return module.exists() and bool(re.search(rf"^(?:def |class |)({path.name})\b", module.read_text(), re.MULTILINE))


DECISIONS = sorted(path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("page", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_what_it_rests_on_and_costs_and_is_in_the_list_and_the_site(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall("^## (.*)", text, re.MULTILINE) == ["Context", "Decision", "Why", "What it costs"]
    assert len(text.splitlines()) <= 30
    assert f"({page.name})" in (page.parent / "README.md").read_text(encoding="utf-8")
    assert f"decisions/{page.name}" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
