"""Judges: they say which test points an image meets. One file per judge."""

from service.contracts.benchmarks.data import Benchmark
from service.contracts.catalog import JudgeEntry
from worker.engine.evaluation.judges.base import Abandoned, Judge, JudgeFailed, Said
from worker.engine.evaluation.judges.openai import OpenAIJudge
from worker.engine.evaluation.judges.perception import PerceptionJudge

KINDS: dict[str, type[Judge]] = {"openai": OpenAIJudge, "perception": PerceptionJudge}


def load_judge(entry: JudgeEntry, benchmark: Benchmark) -> Judge:
    """The catalog's judge, ready to be asked about images of `benchmark`. ValueError where it cannot judge it."""
    return KINDS[entry.kind].load(entry, benchmark)


__all__ = ["KINDS", "Abandoned", "Judge", "JudgeFailed", "Said", "load_judge"]
