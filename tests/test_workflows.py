"""The workflows parse, ask for few rights, and run only commands that the repository has."""

import importlib.util
import os
import re
import shlex
from pathlib import Path

import pytest
import yaml

from minisys.cli import app

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(path.name for path in FOLDER.glob("*"))
ACTIONS = {
    "actions/checkout@v4",
    "actions/setup-python@v5",
    "actions/upload-artifact@v4",
    "actions/upload-pages-artifact@v3",
    "actions/deploy-pages@v4",
}
WRITES = {("pages.yml", "deploy"): {"pages", "id-token"}}  # the only job that may write anything
TRIGGERS = {
    "checks.yml": {"push", "pull_request"},
    "gpu.yml": {"workflow_dispatch"},
    "pages.yml": {"push", "workflow_dispatch"},
    "weekly.yml": {"schedule", "workflow_dispatch"},
}


def read(text):
    """A workflow as a mapping; YAML 1.1 reads the key `on` as true."""
    workflow = yaml.safe_load(text)
    workflow["on"] = workflow.pop(True)
    return workflow


def problems(name, text):
    """Everything that is wrong with the workflow file `name`."""
    workflow = read(text)
    found = []
    if workflow.get("permissions") != {"contents": "read"}:
        found.append(f"permissions: {workflow.get('permissions')}")
    triggers = {workflow["on"]} if isinstance(workflow["on"], str) else set(workflow["on"])
    if triggers != TRIGGERS.get(name):
        found.append(f"triggers: {sorted(triggers)}")
    for key, job in workflow["jobs"].items():
        rights = job.get("permissions", {})
        if rights and set(rights) != WRITES.get((name, key)):
            found.append(f"{key}: permissions {rights}")
        if not 1 <= job.get("timeout-minutes", 0) <= 60:
            found.append(f"{key}: no timeout")
        for step in job["steps"]:
            if "run" not in step and step.get("uses") not in ACTIONS:
                found.append(f"{key}: uses {step.get('uses')}")
            if "checkout" in step.get("uses", "") and step.get("with") != {"persist-credentials": False}:
                found.append(f"{key}: checkout leaves its token behind")
            found += [f"{key}: {line}: {what}" for line, what in bad_commands(step.get("run", ""))]
    return found


def bad_commands(script):
    """(line, what is wrong) for each line of a `run` that is no command of the repository."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    subcommands = {command.name or command.callback.__name__ for command in app.registered_commands}
    for line in script.splitlines():
        words = shlex.split(line)
        if "${{" in line:
            yield line, "an expression inside a command: pass it through env"
        elif words[0] == "make":
            if words[1] not in targets:
                yield line, "no such target in the Makefile"
        elif words[0] == ".venv/bin/minisys":
            if words[1] not in subcommands:
                yield line, "no such command of minisys"
        elif words[0] in ("python", ".venv/bin/python"):
            if words[1] != "-m" and not (ROOT / words[1]).is_file():
                yield line, "no such script"
        elif not os.access(ROOT / words[0], os.X_OK):
            yield line, "no such script, or it cannot be executed"


def test_every_workflow_is_expected():
    assert set(WORKFLOWS) == TRIGGERS.keys()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_is_sound(name):
    assert problems(name, (FOLDER / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("checks.yml", "contents: read", "contents: write", "permissions: {'contents': 'write'}"),
        ("checks.yml", "permissions:\n  contents: read\n", "", "permissions: None"),
        ("checks.yml", "timeout-minutes: 45", "name: x", "checks: no timeout"),
        ("checks.yml", "run: .ci/run", "run: .ci/runs", "no such script"),
        ("checks.yml", "pull_request:", "pull_request_target:", "triggers: ['pull_request_target', 'push']"),
        ("pages.yml", "make book", "make books", "make books: no such target"),
        ("pages.yml", "id-token: write", "contents: write", "deploy: permissions"),
        ("gpu.yml", '"$TOPIC"', "${{ inputs.topic }}", "pass it through env"),
        ("gpu.yml", "minisys bench", "minisys benches", "no such command of minisys"),
        ("gpu.yml", "upload-artifact@v4", "upload-artifact@main", "uses actions/upload-artifact@main"),
        ("weekly.yml", "persist-credentials: false", "fetch-depth: 1", "checkout leaves its token"),
        ("weekly.yml", "tools/check.py", "tools/checks.py", "no such script"),
    ],
)
def test_a_defect_is_found(name, old, new, expected):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert old in text
    assert expected in "\n".join(problems(name, text.replace(old, new)))


def test_checks_run_on_every_python_of_the_project():
    installer = (ROOT / "tools" / "install.py").read_text(encoding="utf-8")
    accepted = re.search(r"^SUPPORTED = (.*)$", installer, re.MULTILINE)[1]
    matrix = read((FOLDER / "checks.yml").read_text(encoding="utf-8"))["jobs"]["checks"]["strategy"]["matrix"]
    assert matrix == {"python": yaml.safe_load(accepted)}


def test_pip_is_cached_by_a_file_that_exists():
    for name in WORKFLOWS:
        for job in read((FOLDER / name).read_text(encoding="utf-8"))["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/setup-python"):
                    assert step["with"]["cache"] == "pip"
                    assert (ROOT / step["with"]["cache-dependency-path"]).is_file()


def test_drift_lists_what_differs_from_the_lock(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("tools_drift", ROOT / "tools" / "drift.py")
    drift = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drift)
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        "# a lock\na-b==1.0\nnewer==1.9.0 ; python_version < '3.14'\ntorch==2.13.0\nabsent==1.0\n"
    )
    monkeypatch.setattr(drift, "LOCK", lock)

    def version(name):
        if name == "absent":
            raise drift.PackageNotFoundError(name)
        return {"a-b": "1.0", "newer": "1.10.0", "torch": "2.13.0+cpu"}[name]

    monkeypatch.setattr(drift, "version", version)
    assert drift.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Packages that differ from the lock: 1"
    assert lines[-1] == "| newer | 1.9.0 | 1.10.0 |"
