"""The distribution: layout, wheel and sdist, light start, frozen commands, files that name settings."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from adapeff.cli.lazy import CommandEntry
from adapeff.cli.main import COMMANDS as TABLE
from adapeff.cli.main import app
from adapeff.cli.output import check_plot
from adapeff.service.errors import ConfigError
from adapeff.service.plugins import catalog
from adapeff.service.settings import NO_SETTINGS, PREFIX, Settings
from adapeff.service.specs.sweep_file import ready_made_sweeps
from adapeff.service.store.database import head_revision
from tests.conftest import ROOT, adapeff_program

HEAVY = {"torch", "transformers", "peft", "datasets", "matplotlib", "numpy", "scipy", "mlflow", "pyarrow", "pandas"}
PRINTING = {
    *("typer", "click", "shellingham", "annotated_doc", "rich", "pygments", "markdown_it", "mdurl", "attr"),
    "coverage",
}
"""What may be loaded to print help, and what measures the coverage of subprocesses."""
COMMANDS = {
    "sweeps ls": {"--json"},
    "sweeps show": {"--json"},
    "sweeps rm": {"--dry-run", "--yes", "--json"},
    "tasks init": {"--json"},
    "run": {
        "--set",
        "--wait-for-device",
        "--with-queue",
        "--models",
        "--tasks",
        "--methods",
        "--seeds",
        "--data-root",
        "--devices",
        "--plot",
        "--force",
        "--json",
    },
    "submit": {
        "--set",
        "--models",
        "--tasks",
        "--methods",
        "--seeds",
        "--data-root",
        "--dry-run",
        "--force",
        "--hold",
        "--wait",
        "--json",
    },
    "profile": {
        *{"--model", "--method", "--reference", "--batch", "--length", "--set", "--devices", "--queue", "--force"},
        "--json",
    },
    "worker": {"--devices", "--data-root", "--quiet", "--drain", "--max-jobs", "--until", "--wait-for-device"},
    "workers": {"--json"},
    "prune": {"--older-than", "--kind", "--sweep", "--where", "--yes", "--json"},
    "status": {"--state", "--limit", "--watch", "--json"},
    "show": {"--json"},
    "why": {"--json"},
    "logs": {"--follow", "--run"},
    "cancel": {"--sweep", "--where", "--json"},
    "retry": {"--failed", "--cause", "--sweep", "--where", "--json"},
    **{command: {"--sweep", "--where", "--json"} for command in ("hold", "release", "priority")},
    "report": {
        *(
            "--all",
            "--view",
            "--where",
            "--format",
            "--out",
            "--reference",
            "--metric",
            "--margin",
            "--plot",
            "--allow-mixed",
            "--group-by",
            "--sort",
        ),
        "--json",
    },
    "recommend": {
        *(
            "--sweep",
            "--all",
            "--where",
            "--min-quality",
            "--margin",
            "--max-latency",
            "--max-memory",
            "--tasks-planned",
        ),
        *("--requests", "--serve-at", "--months", "--price", "--storage-price", "--pscp", "--format", "--json"),
    },
    "compare": {"--sweep", "--all", "--format", "--json"},
    "import": {"--dry-run", "--json"},
    "serve": {"--host", "--port", "--token-file"},
    "export": {"--all", "--format", "--out", "--what", "--with-predictions", "--mlflow"},
    "config": {"--json"},
    "doctor": {"--bench", "--json"},
    "db upgrade": {"--json"},
    "db current": {"--json"},
    "methods ls": {"--model", "--json"},
    "tasks validate": {"--model", "--max-length", "--data-root", "--json"},
    "tasks verify": {"--json"},
    **{f"{noun} ls": {"--json"} for noun in ("tasks", "suites")},
    **{f"{noun} show": {"--json"} for noun in ("methods", "tasks", "suites")},
}


def commands() -> dict[str, Any]:
    """Every command of the command line by its full name."""
    found: dict[str, Any] = {}

    def walk(group: Any, prefix: str) -> None:
        for name, command in group.commands.items():
            if isinstance(command, CommandEntry):
                command = command.load()
            if hasattr(command, "commands"):
                walk(command, f"{prefix}{name} ")
            else:
                found[prefix + name] = command

    walk(typer.main.get_command(app), "")
    return found


def test_commands_and_options_grow_by_decision() -> None:
    """Whoever adds one adds it here, and to the changelog if users will see it."""
    found = {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        - {"--help"}
        for name, command in commands().items()
    }

    assert found == COMMANDS


@pytest.mark.parametrize("name", TABLE)
def test_overview_shows_the_help_of_the_command_itself(name: str) -> None:
    group: Any = typer.main.get_command(app)
    entry = group.commands[name]

    assert entry.name == name
    assert entry.help == entry.load().help


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    """The documentation's page on the command line is made from it."""
    help_text = commands()[name].help

    assert "Example" in help_text
    assert f"adapeff {name}" in help_text


def test_no_part_hides_the_others() -> None:
    for part in ("service", "worker", "cli", "migrations"):
        assert not (ROOT / part / "adapeff" / "__init__.py").exists()
        assert (ROOT / part / "adapeff" / part / "py.typed").exists()


def loaded_modules(*typed: str) -> set[str]:
    """The modules that one invocation of the command line imports, with those that start it in Python itself."""
    code = (
        "import sys, json\nfrom adapeff.cli.main import main\n"
        f"sys.argv = ['adapeff', *{list(typed)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "finally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "command",
    [
        *("submit small.yaml", "status", "methods ls", "export --help"),
        *(pytest.param(f"{name} --help", marks=pytest.mark.slow) for name in ("report", "run")),
    ],
)
def test_command_line_imports_no_torch(command: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("models: [a/b]\ntasks: [sst2]\nmethods: [full, lora, houlsby]\n")

    allowed = {"numpy", "scipy"} if any(name in command for name in ("report", "run", "export")) else set()
    assert not loaded_modules(*command.split()) & (HEAVY - allowed)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_overview_loads_no_command_and_no_library_but_those_that_print_it(option: str) -> None:
    loaded = loaded_modules(option)

    own = {name for name in loaded if name.startswith("adapeff.")}
    assert not {name for name in own if name.startswith(("adapeff.cli.commands.", "adapeff.worker"))}
    assert not own & {"adapeff.cli.invocation", "adapeff.service.settings", "adapeff.service.plugins"}
    others = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"adapeff", "__main__"}
    assert {name for name in others if not name.startswith("_")} <= PRINTING


def test_command_loads_no_other_command() -> None:
    commands = {name for name in loaded_modules("config") if name.startswith("adapeff.cli.commands.")}

    assert commands == {"adapeff.cli.commands.config"}


def test_modules_of_the_command_line_import_at_the_top() -> None:
    """But for what is optional or draws."""
    inside = [
        f"{path.name}: {ast.unparse(node)}"
        for path in sorted((ROOT / "cli").rglob("*.py"))
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]

    assert sorted(inside) == [
        *("catalog.py: from adapeff.cli.render.pictures import drawing",) * 3,
        "export_files.py: from pyarrow import parquet",
        "export_files.py: import pyarrow",
        "mlflow_export.py: import mlflow",
        "serve.py: from adapeff.cli.serve.server import run_server",
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the sdist, built from the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_wheel_is_complete(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    for name in ready_made_sweeps():
        assert f"adapeff/service/specs/sweeps/{name}.yaml" in names
    versions = {path.name for path in (ROOT / "migrations/adapeff/migrations/versions").glob("0*.py")}
    assert versions and all(f"adapeff/migrations/versions/{name}" in names for name in versions)
    assert {"adapeff/migrations/env.py", "adapeff/migrations/script.py.mako"} <= names
    assert {f"adapeff/{part}/py.typed" for part in ("service", "worker", "cli", "migrations")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "adapeff/__init__.py" not in names
    assert not [name for name in names if name.startswith("tests/")]


def test_sdist_is_complete(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "constraints.txt", "docker-compose.yml"} <= names
    assert {"tests/conftest.py", "docs/concepts.md", "migrations/adapeff/migrations/versions/0001_initial.py"} <= names


@pytest.mark.slow
def test_migrations_run_from_the_wheel(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "from pathlib import Path\nimport adapeff.migrations\n"
        f"assert Path(adapeff.migrations.__file__).is_relative_to({str(site)!r})\n"
        "from adapeff.service.store.database import open_database, current_revision\n"
        "from adapeff.service.settings import Settings\n"
        f"print(current_revision(open_database(Settings(state_dir={str(tmp_path / 's')!r}))))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(site), "PATH": "/usr/bin"}, capture_output=True, text=True
    )

    assert done.stdout.strip() == head_revision(), done.stderr


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_every_variable_the_compose_file_sets_is_a_setting() -> None:
    own = [service for name, service in compose()["services"].items() if name not in ("postgres", "redis")]
    variables = {variable for service in own for variable in service["environment"]}

    assert variables
    assert {name.removeprefix(PREFIX).lower() for name in variables} <= set(Settings.model_fields)
    for service in own:
        values: dict[str, Any] = {
            name.removeprefix(PREFIX).lower(): re.sub(r"\$\{[^}]*\}", "secret", value)
            for name, value in service["environment"].items()
        }
        assert (
            values.pop("data_root", "/data") == "/data"
        )  # there in the container only; settings want an existing folder
        Settings(**values)


def test_compose_file_fits_the_schema_and_the_commands() -> None:
    """The part of the Compose Specification's schema that this file uses (compose-spec.json, 2024)."""
    jsonschema = pytest.importorskip("jsonschema")
    text = {"type": "string"}
    texts = {"type": "array", "items": text}
    depends = {
        "type": "object",
        "additionalProperties": {
            "properties": {
                "condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
            },
            "required": ["condition"],
            "additionalProperties": False,
        },
    }
    device = {
        "type": "object",
        "properties": {"driver": text, "count": {"type": ["string", "integer"]}, "capabilities": texts},
        "required": ["capabilities"],
        "additionalProperties": False,
    }
    service = {
        "type": "object",
        "properties": {
            "image": text,
            "build": text,
            "command": texts,
            "environment": {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}},
            "volumes": texts,
            "depends_on": depends,
            "healthcheck": {
                "type": "object",
                "properties": {"test": texts, "interval": text, "retries": {"type": "number"}},
                "additionalProperties": False,
            },
            "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
            "profiles": texts,
            "stop_grace_period": text,
            "deploy": {
                "properties": {
                    "resources": {
                        "properties": {"reservations": {"properties": {"devices": {"type": "array", "items": device}}}}
                    }
                }
            },
        },
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {
            "name": text,
            "services": {"type": "object", "additionalProperties": service},
            "volumes": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
        },
        "patternProperties": {"^x-": {}},
        "required": ["services"],
        "additionalProperties": False,
    }
    loaded = compose()

    jsonschema.validate(loaded, schema)

    for name, service_of in loaded["services"].items():
        for needed in service_of.get("depends_on", {}):
            assert needed in loaded["services"], name
        for volume in service_of.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in loaded["volumes"] or source.startswith(("/", ".", "$")), volume
    for name in ("migrate", "worker-gpu", "worker-cpu"):
        typed = [word for word in loaded["services"][name]["command"] if not word.startswith("-")]
        assert any(" ".join(typed).startswith(command) for command in COMMANDS)
    assert loaded["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]


def test_dockerfile_copies_what_exists_and_installs_extras_that_exist() -> None:
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, re.MULTILINE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_picture_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed

    with pytest.raises(ConfigError, match=r"pip install 'adapeff\[plot\]'"):
        check_plot(tmp_path / "report.png")


def test_no_dependency_asks_for_a_prerelease() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]

    assert not [text for group in groups for text in group if re.search(r"\d(a|b|rc)\d|dev", text)]


def test_plugins_are_found_as_a_strangers_are() -> None:
    from importlib.metadata import entry_points

    for group in ("methods", "tasks", "suites", "metrics"):
        ours = [
            point for point in entry_points(group=f"adapeff.{group}") if point.dist and point.dist.name == "adapeff"
        ]
        assert len(ours) == 1
    assert set(catalog.methods()) >= {"full", "head", "lora", "houlsby"}
    assert set(catalog.tasks()) >= {"xnli", "sst2", "offline_sentiment", "offline_nli"}
    for suite in catalog.suites().values():
        assert set(suite.tasks) <= set(catalog.tasks())
    for task in catalog.tasks().values():
        assert task.metric in catalog.metrics()


def test_docs_hold_no_unfilled_place() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        assert not re.findall(r"@[A-Z]+@", page.read_text()), page


def test_version_is_printed() -> None:
    from importlib.metadata import version

    done = subprocess.run([adapeff_program(), "--version"], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == version("adapeff")


def test_readme_and_docs_name_only_settings_and_sweeps_that_exist() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()
        for variable in re.findall(r"\bADAPEFF_[A-Z_]+[A-Z]", text):
            name = variable.removeprefix(PREFIX).lower()
            assert name in (*Settings.model_fields, *NO_SETTINGS) or name.startswith("test_"), (page, variable)
        for link in re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", text):
            assert (page.parent / link).is_file(), (page, link)
