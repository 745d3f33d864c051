"""How a child is started."""

from pathlib import Path

import pytest

from worker.launch import TRAIN, train

SPEC, OUT, START, RESUME = (Path(name) for name in ("spec.json", "out dir", "start", "resume"))


class TestTrain:
    def test_the_engines_program_gets_spec_and_directory(self) -> None:
        assert train(SPEC, OUT).argv == (*TRAIN, "spec.json", "--out", "out dir")

    def test_a_start_is_named(self) -> None:
        assert train(SPEC, OUT, start_from=START).argv[-2:] == ("--start-from", "start")

    def test_going_on_wins_over_starting(self) -> None:
        argv = train(SPEC, OUT, start_from=START, resume=RESUME).argv
        assert argv[-2:] == ("--resume", "resume")
        assert "--start-from" not in argv

    def test_the_child_is_given_no_address_of_database_or_broker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL", "G2RPO_CATALOG"):
            monkeypatch.setenv(name, "secret")
        environment = train(SPEC, OUT).environment
        assert not {"G2RPO_DATABASE_URL", "G2RPO_BROKER_URL"} & environment.keys()
        assert environment["G2RPO_CATALOG"] == "secret"
