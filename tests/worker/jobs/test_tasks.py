"""The worker's process does not load torch before a job needs it."""

import subprocess
import sys


def test_tasks_and_application_import_no_torch() -> None:
    program = "import sys, worker.celery_app, worker.tasks; print('torch' in sys.modules, 'fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
