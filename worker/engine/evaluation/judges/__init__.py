"""Judges, which decide which test points an image meets. There is one file per kind of judge."""

from service.contracts.benchmarks.data import Benchmark
from service.contracts.catalog import JudgeEntry
from worker.engine.evaluation.judges.base import Judge, JudgeClosed, JudgeFailed, JudgeResponse
from worker.engine.evaluation.judges.openai import OpenAIJudge
from worker.engine.evaluation.judges.perception import PerceptionJudge

KINDS: dict[str, type[Judge]] = {"openai": OpenAIJudge, "perception": PerceptionJudge}


def load_judge(entry: JudgeEntry, benchmark: Benchmark) -> Judge:
    """Create the judge that a catalog entry defines. Raises ValueError if it cannot judge `benchmark`."""
    return KINDS[entry.kind].load(entry, benchmark)


__all__ = ["KINDS", "Judge", "JudgeClosed", "JudgeFailed", "JudgeResponse", "load_judge"]
