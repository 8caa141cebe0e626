"""What a reference solution imports is there before the memory limit holds.

PyTorch with CUDA maps more address space than a part may use, so a submission could not load it afterwards.
"""

import ast
import json
import subprocess
import sys

import pytest

from minisys.core import paths
from minisys.grade.assignment import load_topic
from minisys.grade.worker import Worker

# Starts as a submission's process does, and says what it has loaded when the limits come.
START = """
import json, sys
from minisys.grade import child
child.limit = lambda *limits: print(json.dumps(sorted(sys.modules)))
child.guard.install = lambda *arguments: None
child.Submission(None, None).start(json.loads(sys.argv[1]))
"""
TOPICS = sorted(path.parent.name for path in paths.assignments_directory().glob("*/parts.py"))


def imported(file):
    """The packages that a file imports at its top."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("name", TOPICS)
def test_imports_of_the_solution_come_before_the_limits(name):
    topic = load_topic(name)
    solution = topic.folder / "solution"
    starts = {(part.file, tuple(part.needs)): part for part in topic.parts}
    for part in starts.values():
        with Worker(topic, part, solution) as worker:
            request = json.dumps(worker.start_request)
        run = [sys.executable, "-c", START, request]
        loaded = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
        late = set(imported(solution / part.file)) - set(loaded) - sys.stdlib_module_names
        assert late <= {"minisys", "jaxtyping"}, part.name  # small: pure Python
