"""SECURITY.md promises nothing without a test that is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_each_attack_in_the_table_has_a_test_that_exists() -> None:
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| `(\w+)` \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    defined = set(
        re.findall(
            r"^def (test_\w+)", "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py")), re.MULTILINE
        )
    )
    assert len(rows) >= 20
    assert len(rows) == len(set(rows))
    assert sorted(set(rows) - defined) == []
