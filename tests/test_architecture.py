"""The rooms and who may know whom. A module that reaches where it may not fails here, with its name."""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ml_backend"
ROOMS = (
    "cli",
    "commands",
    "web",
    "demo",
    "worker",
    "dry_run",
    "cycle",
    "services",
    "manual_queue",
    "manual_promotion",
    "acceptance",
    "manual_relabel",
    "manual_fields",
    "opinions",
    "look_alikes",
    "atlas",
    "imports",
    "exports",
    "diagnostics",
    "insight",
    "status",
    "simulation",
    "steps",
    "project_encoders",
    "predictor",
    "unlisted_images",
    "image_sample",
    "encoding",
    "hosts",
    "project_settings",
    "store_identity",
    "labelstudio",
    "store",
    "strategies",
    "learning",
    "encoders",
    "images",
    "task_names",
    "tabular",
    "settings",
    "host_lists",
    "split",
    "wording",
    "chunks",
    "records",
    "errors",
)
"""Every room. Imports point down this list."""
APART = {"strategies": {"learning", "encoders"}, "labelstudio": {"store"}}
"""And these stand beside each other: the first knows nothing of the others."""
EDGES = ROOMS[: ROOMS.index("services") + 1]
"""Where everything is put together, or taken apart; below, a function takes what it uses."""
MODULES = sorted(PACKAGE.rglob("*.py"))


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


def upward(room: str, imported: set[str]) -> set[str]:
    """Those of the imported rooms that do not stand below this one."""
    below = set(ROOMS[ROOMS.index(room) + 1 :]) - APART.get(room, set())
    return imported - below - {room}


def imported_modules(source: str, known: set[str]) -> set[str]:
    """Of the known modules, those that are imported, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & known or {node.module}
    return names & known


def circle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, the first again at the end; empty where there is none."""
    try:
        TopologicalSorter({name: imported_modules(source, set(sources)) for name, source in sources.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def takes_services(source: str) -> list[str]:
    """Functions with the whole container as a parameter."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            found += [node.name for arg in given if arg.annotation and "Services" in ast.unparse(arg.annotation)]
    return found


def test_every_module_stands_in_a_room_and_every_room_is_there() -> None:
    assert {room_of(path) for path in MODULES} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    wrong = set() if room == "__init__" else upward(room, imported_rooms(path.read_text()))
    assert not wrong, f"{path.relative_to(PACKAGE)} reaches into {', '.join(sorted(wrong))}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Neither inside a room, nor hidden in a function or behind `TYPE_CHECKING`."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}
    assert circle({name.removesuffix(".__init__"): path.read_text() for name, path in names.items()}) == []


def test_below_the_edges_a_function_takes_what_it_uses() -> None:
    inside = [path for path in MODULES if room_of(path) not in EDGES]
    whole = [f"{path.relative_to(PACKAGE)}: {name}" for path in inside for name in takes_services(path.read_text())]
    assert whole == []


def test_no_two_modules_have_the_same_name() -> None:
    names = sorted(path.name for path in MODULES if path.name != "__init__.py")
    assert [name for name, after in pairwise(names) if name == after] == []


def test_the_checks_notice_what_is_forbidden() -> None:
    assert upward("strategies", imported_rooms("def f():\n    from ml_backend.store import ledger")) == {"store"}
    assert upward("cycle", imported_rooms("import ml_backend.web.app")) == {"web"}
    assert upward("strategies", {"learning"}) == {"learning"}
    assert not upward("worker", imported_rooms("from ml_backend import cycle"))
    assert set(circle({"a.b": "def f():\n    from a import c", "a.c": "import a.b"})) == {"a.b", "a.c"}
    assert circle({"a.b": "from a.c import b", "a.c": "import b"}) == []
    assert takes_services("def f(project, *, services: 'Services | None'): ...") == ["f"]
    assert takes_services("def f(ledger: Ledger): ...") == []


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
