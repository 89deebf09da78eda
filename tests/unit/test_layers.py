"""The house keeps its shape: imports point downward, and `import videoseg` stays light (design §2)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import videoseg

ROOT = Path(videoseg.__file__).parent
LAYERS = {
    "types": 1,
    "masks": 1,
    "errors": 1,
    "trace_json": 1,
    "machine": 1,
    "dialogue": 2,
    "video": 2,
    "data": 2,
    "models": 3,
    "tracking": 3,
    "systems": 4,
    "training": 5,
    "evaluation": 5,
    "export": 5,
    "cli": 6,
    "__main__": 6,
    "app": 6,
}


def imported(path: Path) -> set[str]:
    """Every `videoseg.*` module that a file imports, function bodies included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return {name for name in found if name.startswith("videoseg.")}


def layer(module: str) -> int | None:
    """Layer of `videoseg.<part>...`; None for the package itself."""
    return LAYERS.get(module.split(".")[1])


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    assert own in LAYERS, f"{own} has no layer; add it to the table and to docs"
    for module in imported(path):
        other = layer(module)
        if other is not None:
            assert other <= LAYERS[own], f"{path.name} (layer {LAYERS[own]}) imports {module} (layer {other})"


@pytest.mark.parametrize("name", ["types", "masks", "errors"])
def test_the_first_layer_does_not_import_torch(name: str) -> None:
    run_without_torch(f"import videoseg.{name}")


def test_importing_the_package_does_not_import_torch() -> None:
    run_without_torch("import videoseg; videoseg.Masklets; videoseg.Query; videoseg.Video")


def test_the_command_line_overview_does_not_import_torch() -> None:
    run_without_torch("from videoseg.cli.main import main; assert main(['--help']) == 0")


def run_without_torch(code: str) -> None:
    check = f"{code}\nimport sys\nassert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists() -> None:
    for name in videoseg.__all__:
        assert getattr(videoseg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'bogus'"):
        _ = videoseg.bogus


def test_there_is_no_circular_import_between_parts() -> None:
    """Files of one layer may use each other, but not in circles between packages."""
    edges: dict[str, set[str]] = {part: set() for part in LAYERS}
    for path in FILES:
        own = path.relative_to(ROOT).with_suffix("").parts[0]
        edges[own] |= {m.split(".")[1] for m in imported(path)} & set(LAYERS) - {own}
    for part, others in edges.items():
        for other in others:
            assert part not in edges[other], f"{part} and {other} import each other"
