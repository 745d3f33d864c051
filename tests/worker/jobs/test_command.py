"""Commands of child processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.jobs.training_run import PROGRAM, RANKS, train_command

SPEC, OUT, START, RESUME = (Path(name) for name in ("spec.json", "out dir", "start", "resume"))


class TestTrain:
    def test_program_gets_spec_and_directory(self) -> None:
        assert train_command(SPEC, OUT).argv == (*PROGRAM, "spec.json", "--out", "out dir")

    def test_start_checkpoint_is_an_argument(self) -> None:
        assert train_command(SPEC, OUT, start_from=START).argv[-2:] == ("--start-from", "start")

    def test_resume_takes_precedence_over_start(self) -> None:
        argv = train_command(SPEC, OUT, start_from=START, resume=RESUME).argv
        assert argv[-2:] == ("--resume", "resume")
        assert "--start-from" not in argv

    def test_prompt_sets_are_passed_by_name(self) -> None:
        argv = train_command(SPEC, OUT, prompt_sets={"mine": Path("a=b.jsonl")}).argv
        assert argv[-2:] == ("--prompt-set", "mine=a=b.jsonl")

    def test_several_processes_have_one_starter(self) -> None:
        argv = train_command(SPEC, OUT, processes=3).argv
        assert argv == (*RANKS, "3", "out dir", *PROGRAM, "spec.json", "--out", "out dir")

    def test_starter_does_not_load_torch(self) -> None:
        code = "import sys, worker.entrypoints.launcher; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0

    def test_processes_share_the_cores_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        cores = len(os.sched_getaffinity(0))
        assert "OMP_NUM_THREADS" not in train_command(SPEC, OUT).environment
        assert train_command(SPEC, OUT, processes=2).environment["OMP_NUM_THREADS"] == str(max(1, cores // 2))
        assert train_command(SPEC, OUT, processes=64).environment["OMP_NUM_THREADS"] == str(max(1, cores // 64))
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        assert train_command(SPEC, OUT, processes=2).environment["OMP_NUM_THREADS"] == "5"

    def test_environment_has_no_database_or_broker_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL", "G2RPO_CATALOG"):
            monkeypatch.setenv(name, "secret")
        environment = train_command(SPEC, OUT).environment
        assert not {"G2RPO_DATABASE_URL", "G2RPO_BROKER_URL"} & environment.keys()
        assert environment["G2RPO_CATALOG"] == "secret"
