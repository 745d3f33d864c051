"""What every route asks of a key: one table, by operationId. A route that is not in it asks for `admin`."""

from service.auth.principal import Scope

READ, WRITE, ADMIN = Scope.READ, Scope.WRITE, Scope.ADMIN

SCOPES: dict[str, Scope | None] = {
    "getIndex": None,
    "getHealth": None,
    "getReadiness": None,
    "getMetrics": READ,
    "getCatalog": READ,
    "createPromptSet": WRITE,
    "listPromptSets": READ,
    "getPromptSet": READ,
    "listPrompts": READ,
    "deletePromptSet": WRITE,
    "makePlan": READ,
    "createRun": WRITE,
    "listRuns": READ,
    "getRun": READ,
    "changeRun": WRITE,
    "deleteRun": WRITE,
    "listAttempts": READ,
    "cancelRun": WRITE,
    "pauseRun": WRITE,
    "resumeRun": WRITE,
    "saveRun": WRITE,
    "cloneRun": WRITE,
    "getCurves": READ,
    "compareCurves": READ,
    "listRewardGroups": READ,
    "listSamples": READ,
    "getSampleImage": READ,
    "getLogs": READ,
    "streamRunEvents": READ,
    "listCheckpoints": READ,
    "listAllCheckpoints": READ,
    "importCheckpoint": WRITE,
    "deleteCheckpoint": WRITE,
    "getCheckpoint": READ,
    "getCheckpointArchive": READ,
    "downloadCheckpointFile": READ,
    "headCheckpointFile": READ,
    "generate": WRITE,
    "listGenerations": READ,
    "getGeneration": READ,
    "getGenerationImage": READ,
    "getGenerationGrid": READ,
    "cancelGeneration": WRITE,
    "deleteGeneration": WRITE,
    "score": WRITE,
    "listScores": READ,
    "getScore": READ,
    "cancelScore": WRITE,
    "deleteScore": WRITE,
    "createEvaluation": WRITE,
    "listEvaluations": READ,
    "getEvaluation": READ,
    "cancelEvaluation": WRITE,
    "resumeEvaluation": WRITE,
    "deleteEvaluation": WRITE,
    "getEvaluationLogs": READ,
    "streamEvaluationEvents": READ,
    "listBenchmarks": READ,
    "getBenchmark": READ,
    "rescoreBenchmark": READ,
    "listAnswers": READ,
    "listImages": READ,
    "getImage": READ,
    "exportEvaluation": READ,
    "compareEvaluations": READ,
    "getGallery": READ,
    "getLeaderboard": READ,
    "createKey": ADMIN,
    "listKeys": ADMIN,
    "getKey": ADMIN,
    "revokeKey": ADMIN,
}
"""The scope that an operation needs; None: it needs no key."""
DOCS_ASSETS = "/docs/assets"
"""Where the files of the page `/docs` are."""
PUBLIC = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"}) | {
    f"{DOCS_ASSETS}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
}
"""Paths that need no key."""


WITHOUT_DATABASE = frozenset({"getMetrics"})
"""Operations that this machine may ask for without a key while the database is away: they tell that it is."""


def needed(operation: str | None) -> Scope | None:
    """The scope that an operation needs; None for no operation: any good key may learn that there is none."""
    return None if operation is None else SCOPES.get(operation, Scope.ADMIN)
