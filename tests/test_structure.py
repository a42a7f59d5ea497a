"""The shape of the project: its folders, the direction of its imports, the size of its files and functions."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import FULL, TIERS

ROOT = Path(__file__).parents[1]
PACKAGES = ("protos", "peers", "coordinator")
ROOMS = {
    "peers": (
        ("common",),
        ("transport",),
        ("config",),
        ("networks", "data"),
        ("probes",),
        ("method",),
        ("exchange",),
        ("runs",),
        ("worker",),
    ),
    "coordinator": (
        ("service", "certificates", "recipes", "status"),
        ("launch",),
        ("experiment",),
        ("doctor", "replay"),
        ("cli",),
    ),
}
"""The rooms of a package, from the lowest up: a room imports only itself and rooms below it."""
FILE_LINES = 400
BODY_LINES = 50


def python_files() -> list[Path]:
    """All Python files that people write; generated ones are marked by their names."""
    folders = (*PACKAGES, "tests")
    return [
        path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) if "_pb2" not in path.name
    ]  # fmt: skip


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level package of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Modules of every import by their full names; of `from package import name`, both."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_sizes() -> None:
    """Files have at most 400 lines, functions at most 50 in their bodies."""
    long = []
    for path in python_files():
        text = path.read_text()
        name = path.relative_to(ROOT)
        if (lines := len(text.splitlines())) > FILE_LINES:
            long.append(f"{name} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                statements = node.body[1:] if ast.get_docstring(node) else node.body
                if statements and (lines := (statements[-1].end_lineno or 0) - statements[0].lineno + 1) > BODY_LINES:
                    long.append(f"{name}: {node.name} has {lines} lines")
    assert long == []


def test_imports_point_one_way() -> None:
    """Protos <- peers <- coordinator: a worker is complete without the coordinator, the wire without both."""
    for place, package in enumerate(PACKAGES):
        later = set(PACKAGES[place + 1 :]) | {"tests"}
        for path in (ROOT / package).rglob("*.py"):
            wrong = set(imported(ast.parse(path.read_text()))) & later
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_only_rooms_below_it(package: str) -> None:
    """So that there is no circle, and a reader knows where to look; imports for type checkers count, too."""
    order = {room: level for level, rooms in enumerate(ROOMS[package]) for room in rooms}
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        place = path.relative_to(ROOT / package)
        room = place.parts[0].removesuffix(".py")
        if room == "__init__" or room not in order:
            assert room == "__init__", f"{place} is in no room"
            continue
        for module in imported_modules(ast.parse(path.read_text())):
            other = module.split(".")[1] if module.startswith(f"{package}.") else room
            if other != room and order[other] >= order[room]:
                wrong.append(f"{package}/{place} imports {module}")
    assert wrong == []


def test_a_class_name_has_one_meaning() -> None:
    """No two classes of one name in the product: a reader, and a search, find one."""
    places: dict[str, list[str]] = {}
    for path in python_files():
        if path.relative_to(ROOT).parts[0] in PACKAGES:
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_top_level_folders() -> None:
    """Nothing but the five folders that the project is made of."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not tracked:
        pytest.skip("not a git checkout: there is no list of the project's own files")
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line}
    assert {folder for folder in folders if not folder.startswith(".")} <= {*PACKAGES, "deploy", "tests"}


@pytest.mark.parametrize(
    "module", ["peers.method.target_selection", "peers.config.loading", "coordinator.cli", "coordinator.launch.plan"]
)
def test_light_modules_do_without_torch(module: str) -> None:
    """What a coordinator, --help and --dry-run need starts in a fraction of the time that torch takes to import."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_importing_a_worker_leaves_the_slow_libraries_alone() -> None:
    """torchvision, scikit-learn and TensorBoard each take seconds: they are imported where they are used."""
    code = (
        "import sys, peers.worker.worker; print(*sorted({'torchvision', 'sklearn', 'tensorboard'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.split() == []


def test_tiers_name_tests_that_exist() -> None:
    """What conftest.py puts into a tier by its name is there: a renamed test would fall back into the default tier."""
    for place in (*itertools.chain(*TIERS.values()), *FULL):
        file, _, function = place.partition("::")
        paths = list((ROOT / "tests").glob(f"{file.removesuffix('.py').removesuffix('/')}*"))
        assert paths, f"{file} is not there"
        if function:
            assert f"def {function.partition('[')[0]}(" in paths[0].read_text(), f"{function} is not in {file}"
