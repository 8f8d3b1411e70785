"""The tour in the README names every module there is, and its ten steps stay ten."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_module_and_room_is_in_the_tree() -> None:
    modules = [path.name for path in (ROOT / "ml_backend").glob("*.py") if path.name != "__init__.py"]
    rooms = [f"{path.parent.name}/" for path in (ROOT / "ml_backend").glob("*/__init__.py")]
    tree = README.split("## How it works")[1].split("```")[1]
    assert [name for name in [*modules, *rooms] if name not in tree] == []


def test_the_tree_names_nothing_that_is_not_there() -> None:
    tree = README.split("## How it works")[1].split("```")[1]
    named = re.findall(r"\b(\w+\.py)\b", tree)
    assert [name for name in named if not (ROOT / "ml_backend" / name).exists()] == []


def test_one_label_is_followed_in_at_most_ten_steps() -> None:
    tour = README.split("One label, from webhook to queue:")[1]
    assert 1 <= len(re.findall(r"^\d+\. ", tour, re.MULTILINE)) <= 10
