"""The wheel: all four packages, whole, and at work where only it and its dependencies are installed."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS
from support.paths import PROJECT
from support.prefect_server import serving, started, until

UV = Path(sys.executable).with_name("uv")
OFFLINE = re.compile(r"Failed to fetch|dns error|error sending request|network", re.I)
PACKAGES = ("flows", "pipelines", "schemas", "training")

pytestmark = pytest.mark.slow


def done(*command: str | Path, cwd: Path, **env: str) -> str:
    """What a command prints."""
    process = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, **env}
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the project, so that no build folder is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, folder / "project" / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder / "project" / name)
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--wheel-dir", folder)
    done(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=folder / "project")
    (path,) = folder.glob("shardmill-*.whl")
    return path


def test_it_holds_every_module_and_prompt_and_nothing_else(wheel):
    files = [path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")]
    files += [
        *(PROJECT / "pipelines/models/prompts").glob("*.txt"),
        *(PROJECT / name / "py.typed" for name in PACKAGES),
    ]
    there = {str(path.relative_to(PROJECT)) for path in files}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == there


def test_it_runs_in_an_empty_environment(wheel, tmp_path):
    """A venv with nothing but the wheel; the dependencies come from the path of this one, the project does not."""
    done(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    site = Path(done(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    install = ("install", "--no-deps", "--no-index", "--quiet", "--target", site)
    done(sys.executable, "-m", "pip", *install, wheel, cwd=tmp_path)
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    modules = [name[:-3].replace("/", ".") for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    names = sorted(name.removesuffix(".__init__") for name in modules)
    if find_spec("gguf") is None:  # the extra [gguf] is not installed here
        names = [name for name in names if not name.startswith("training.gguf")]
    code = f"""
import importlib, sys
sys.path += {dependencies!r}
for name in {names!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(site)!r}), module.__file__
from pipelines.models.prompts import packaged
assert all(packaged(name) for name in ("caption", "caption_image", "facts", "questions", "verdict"))
print(len({names!r}))
"""
    assert int(done(python, "-I", "-c", code, cwd=tmp_path)) == len(names) > 30
    command = f"import sys; sys.path += {dependencies!r}; from flows.cli import main; main()"
    done(python, "-I", "-c", command, "init", "my.toml", "--source", "scenes", cwd=tmp_path)
    assert "new file" in done(python, "-I", "-c", command, "plan", "my.toml", cwd=tmp_path)
    assert "shardmill = flows.cli:main" in next(site.glob("shardmill-*.dist-info/entry_points.txt")).read_text()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of an environment with nothing but the pinned packages and the wheel, which fits them."""
    if not UV.exists():
        pytest.skip("uv is not installed in this environment")
    folder = tmp_path_factory.mktemp("installed")
    done(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    install = [UV, "pip", "install", "--quiet", "--python", folder / "venv/bin/python"]
    packages = subprocess.run(
        [*map(str, install), "--require-hashes", "-r", str(PROJECT / "requirements.txt")],
        cwd=folder, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    if packages.returncode != 0 and OFFLINE.search(packages.stderr):
        pytest.skip(f"the packages cannot be fetched here: {packages.stderr.strip().splitlines()[0]}")
    assert packages.returncode == 0, packages.stderr
    done(*install, "--no-deps", wheel, cwd=folder)
    done(UV, "pip", "check", "--python", folder / "venv/bin/python", cwd=folder)
    return folder / "venv/bin"


def test_it_works_beside_folders_of_the_same_names(installed, tmp_path):
    """In a folder with packages of the user's that are called as ours are: a run, a plan, verify, and a schedule whose
    worker is started there too."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a package of the user')")
    config = tmp_path / "my.toml"
    config.write_text(
        f'root = "corpus"\n[source]\nkind = "scenes"\ncount = 30\nplanted = 0.0\n[sets.train]\n{ONE_PROCESS}'
    )
    env = {
        "PATH": f"{installed}:/usr/bin:/bin", "PYTHONPATH": "", "HOME": str(tmp_path), "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }  # fmt: skip
    program = installed / "shardmill"
    assert "new file" in done(program, "plan", "my.toml", cwd=tmp_path, **env)
    with serving(tmp_path / "server") as server:
        env |= server.env
        done(program, "run", "my.toml", cwd=tmp_path, **env)
        planned = done(program, "plan", "my.toml", cwd=tmp_path, **env)
        assert planned.count("current") == 4 and "new" not in planned, planned
        assert "all is well" in done(program, "verify", "corpus", cwd=tmp_path, **env)
        words = ("schedule", "my.toml", "--cron", "0 0 1 1 *", "--name", "mine")
        assert "deployed build-corpus/mine" in done(program, *words, cwd=tmp_path, **env)
        config.write_text(config.read_text().replace("count = 30", "count = 40"))
        run = server.trigger("mine")
        command = [str(installed / "prefect"), "worker", "start", "--pool", "shardmill", "--type", "process"]
        with started(command, tmp_path, tmp_path / "worker.log", **env):
            ended = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
            state = until(lambda: (now := server.run(run["id"]))["state_type"] in ended and now, 300)
        assert state["state_type"] == "COMPLETED", server.logs_of(state)
    assert "40 rows" in done(program, "verify", "corpus", cwd=tmp_path, **env)
