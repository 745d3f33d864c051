"""OpenAPI links: what may be asked next about the thing that an answer shows."""

from typing import Any

ID = "$response.body#/id"
FIRST_ID = "$response.body#/items/0/id"


def links(*operations: str, **parameters: str) -> dict[str, Any]:
    """The `links` of an answer: to `operations`, each by its operationId, with path `parameters` from the answer."""
    return {operation: {"operationId": operation, "parameters": parameters} for operation in operations}


RUN = (
    *("getRun", "changeRun", "deleteRun", "listAttempts"),
    *("cancelRun", "pauseRun", "resumeRun", "saveRun", "cloneRun"),
    *("getCurves", "listRewardGroups", "listSamples", "getLogs", "listCheckpoints", "streamRunEvents"),
)
"""Operations on one run."""
CHECKPOINT = ("getCheckpoint", "getCheckpointArchive", "deleteCheckpoint")
"""Operations on one checkpoint."""
GENERATION = ("getGeneration", "cancelGeneration", "deleteGeneration", "getGenerationGrid")
"""Operations on one generation."""
EVALUATION = (
    *("getEvaluation", "cancelEvaluation", "resumeEvaluation", "deleteEvaluation"),
    *("getEvaluationLogs", "streamEvaluationEvents"),
    *("listAnswers", "listImages", "exportEvaluation", "getGallery"),
)
"""Operations on one evaluation."""
SCORE = ("getScore", "cancelScore", "deleteScore")
"""Operations on one scoring."""
KEY = ("getKey", "revokeKey")
"""Operations on one API key."""
