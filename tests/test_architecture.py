"""The rooms and who may know whom. A module that reaches where it may not fails here, with its name."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ml_backend"
ROOMS = {
    "errors": set[str](),
    "records": set[str](),
    "wording": set[str](),
    "split": set[str](),
    "hosts": set[str](),
    "settings": {"errors", "hosts", "records", "wording"},
    "labelstudio": {"errors", "hosts", "records", "wording"},
    "store": {"errors", "records", "split", "wording"},
    "learning": {"errors", "records", "wording"},
    "strategies": {"errors", "records", "wording"},
}
"""What each room may import, besides itself. Modules not listed stand above the rooms."""
NEVER = {"cycle": {"server", "worker", "commands", "cli", "protocol", "operations"}}
"""The loop does not know who runs it."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports hide the room"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("ml_backend.")} - {"__version__"}


def forbidden(room: str, imported: set[str]) -> set[str]:
    if room in ROOMS:
        return imported - ROOMS[room] - {room}
    return imported & NEVER.get(room, set())


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    wrong = forbidden(room_of(path), imported_rooms(path.read_text()))
    assert not wrong, f"{path.relative_to(PACKAGE)} reaches into {', '.join(sorted(wrong))}"


def test_the_check_notices_a_forbidden_import() -> None:
    assert forbidden("strategies", imported_rooms("def f():\n    from ml_backend.store import ledger")) == {"store"}
    assert forbidden("cycle", imported_rooms("import ml_backend.web.app")) == {"server"}
    assert not forbidden("worker", imported_rooms("from ml_backend import cycle"))


def test_importing_the_package_does_nothing_but_define() -> None:
    """No module reads the environment, opens a file or sets up logging when it is imported."""
    suspicious = []
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign) and node.value is not None:
                for call in ast.walk(node):
                    text = ast.unparse(call) if isinstance(call, ast.Call | ast.Attribute) else ""
                    if text.startswith(("os.environ", "os.getenv", "open(", "logging.basicConfig", "torch.load")):
                        suspicious.append(f"{path.relative_to(PACKAGE)}: {text}")
    assert suspicious == []
