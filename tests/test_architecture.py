"""Who may enter which room, read from the code's own imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("mtmd_core", "client", "server", "simulation")
FORBIDDEN = {
    "mtmd_core": {"client", "server", "simulation", "flwr"},
    "client": {"server", "simulation"},
    "server": {"client", "simulation"},
    "simulation": set(),
}


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def printed(code: str, folder: Path) -> str:
    """What a process of its own prints that runs some code in a folder."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports anywhere in a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_enters_a_room_that_is_closed_to_it(room: str) -> None:
    assert modules(room)
    trespasses = {
        str(path.relative_to(ROOT)): sorted(imported(path) & FORBIDDEN[room])
        for path in modules(room)
        if imported(path) & FORBIDDEN[room]
    }
    assert trespasses == {}


@pytest.mark.parametrize("room", ROOMS)
def test_imported_package_is_the_one_in_this_checkout(room: str) -> None:
    package = __import__(room)
    assert Path(package.__file__).resolve().parent == ROOT / room


def test_every_package_is_listed_for_installation() -> None:
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for room in (*ROOMS, "configs"):
        for init in (ROOT / room).rglob("__init__.py"):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            assert f'"{name}"' in listed, f"{name} is missing from [tool.setuptools] packages"


def test_configs_hold_no_code() -> None:
    assert {
        path.suffix for path in (ROOT / "configs").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    } <= {
        ".yaml",
        ".py",
    }
    assert ast.get_docstring(ast.parse((ROOT / "configs/__init__.py").read_text(encoding="utf-8")))
    assert len(ast.parse((ROOT / "configs/__init__.py").read_text(encoding="utf-8")).body) == 1


@pytest.mark.parametrize("room", ["client", "server"])
def test_flowers_internal_names_are_imported_in_one_file(room: str) -> None:
    public = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
    for path in modules(room):
        if path.name == "flower_internals.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flwr"):
                assert node.module in public, f"{path.relative_to(ROOT)} imports {node.module}"


def test_what_builds_an_att_unet_never_waits_for_timm() -> None:
    code = (
        "import sys, client.app, server.app, simulation.runs\n"
        "from mtmd_core.config import NetworkConfig\n"
        "from mtmd_core.networks.build import build_network\n"
        "build_network(NetworkConfig('att_unet', 2), {'knee': 3}, 0)\n"
        "print(sorted({'timm', 'torchvision', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    assert printed(code, ROOT) == "[]\n"


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        ("client.app, client.flower_internals", {"hydra", "sqlalchemy"}),
        ("server.app", {"scipy"}),
        ("server.door", {"sqlalchemy", "torch"}),
    ],
)
def test_a_process_starts_without_what_another_one_needs(modules: str, without: set[str]) -> None:
    assert printed(f"import sys, {modules}\nprint(sorted({without} & set(sys.modules)))", ROOT) == "[]\n"


def test_a_configuration_is_read_and_a_page_of_a_run_made_without_pytorch(tmp_path: Path) -> None:
    """What commands do before a run, and mtmd-server while its own process only watches one."""
    code = (
        "import sys\nfrom pathlib import Path\nimport client.settings, simulation.command\n"
        "from mtmd_core.config_files import compose, save_config\nfrom server.report import run_page, told_by\n"
        "save_config(compose('federation', ['strategy=dsl']), Path('run.yaml'))\n"
        "run_page(told_by(Path()))\n"
        "print(sorted({'torch', 'scipy', 'flwr'} & set(sys.modules)))"
    )
    assert printed(code, tmp_path) == "[]\n"
