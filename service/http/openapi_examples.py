"""Examples of answers, for the API's documentation; a test holds each against its model."""

from typing import Any

RUN_ID = "01a204c3-f0ca-74ae-8fde-44fae912a6da"
OTHER_RUN_ID = "01a204c3-f9b1-7c52-a1d7-0c9e4b7f3e58"
_CHECKPOINT_ID = "01a204d2-11f4-7b3c-9c55-6a1c6f0e2b11"
_SCORE_ID = "01a204d3-5c02-7a91-b6aa-0f4be7a1c2d5"
_GENERATION_ID = "01a204d3-5c02-7a91-b6aa-0f4be7a1c2d3"
_EVALUATION_ID = "01a204d4-0f21-7e55-9d10-5b7c9e6a4f08"
_OTHER_EVALUATION_ID = "01a204d6-9b7e-7f12-a3c4-5d6e7f809132"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

_JOB: dict[str, Any] = {
    "status": "running",
    "priority": 0,
    "created_at": "2026-01-01T12:00:00Z",
    "created_by": None,
    "queued_at": "2026-01-01T12:00:00Z",
    "started_at": "2026-01-01T12:00:01Z",
    "ended_at": None,
    "attempt": 1,
    "losses": 0,
    "worker": "train@host:4711",
    "cancel_requested_at": None,
    "progress": {
        "time": "2026-01-01T12:01:00Z",
        "type": "progress",
        "step": 12,
        "max_steps": 60,
        "phase": "rollout",
        "eta_seconds": 192.5,
        "step_seconds": 4.0,
    },
    "error": None,
}
RUN_SUMMARY: dict[str, Any] = {
    "id": RUN_ID,
    **_JOB,
    "name": "first try",
    "labels": {"paper": "table-2"},
    "model": "shapes-flux",
    "algorithm": "g2rpo",
    "max_steps": 60,
    "start_from": None,
    "parent_id": None,
    "heldout": None,
}
RUN: dict[str, Any] = {
    **RUN_SUMMARY,
    "spec": {"preset": "shapes", "training": {"max_steps": 60, "seed": 42}},
    "spec_version": 1,
    "notes": "",
    "seconds_used": 0.0,
    "checkpoint_pending": False,
    "queue_position": None,
    "eta_seconds": 192.5,
    "resources": {"nodes": 1, "processes_per_node": 1, "offload_rewards": False},
    "plan": {"per_prompt": {"total": 332}, "saved_share": 0.42},
    "prompt_sets": {},
    "metrics": {"heldout/clip_score": {"step": 10, "value": 0.71}, "reward/clip_score": {"step": 12, "value": 0.68}},
}
ATTEMPT: dict[str, Any] = {
    "number": 1,
    "worker": "train@host:4711",
    "started_at": "2026-01-01T12:00:01Z",
    "ended_at": None,
    "outcome": None,
    "lost": False,
    "resumed_at": 0,
    "max_steps": 60,
    "provenance": {"device": "cpu", "threads": 2, "packages": {"torch": "2.13.0"}, "commit": None},
}
CURVES: dict[str, Any] = {
    "run_id": RUN_ID,
    "curves": [
        {
            "name": "heldout/clip_score",
            "steps": [0, 10, 20],
            "values": [0.64, 0.71, 0.76],
            "min": None,
            "max": None,
        }
    ],
}
COMPARISON: dict[str, Any] = {
    "x": "nfe",
    "unit": "NFE",
    "band": "ci95",
    "series": [
        {
            "name": "g2rpo",
            "kind": "group",
            "runs": [RUN_ID, OTHER_RUN_ID],
            "metric": "heldout/clip_score",
            "x": [0.0, 13440.0, 26880.0],
            "values": [0.64, 0.71, 0.76],
            "low": [0.64, 0.66, 0.74],
            "high": [0.64, 0.76, 0.78],
            "n": [2, 2, 2],
        }
    ],
    "warnings": [],
}
REWARD_GROUP: dict[str, Any] = {
    "step": 12,
    "prompt_index": 0,
    "prompt": "a small red circle above a large blue square",
    "sde_step": 0,
    "granularity": 2,
    "reward": "clip_score",
    "attempt": 1,
    "values": [0.5, 0.75, None, 1.0],
    "mean": 0.75,
    "std": 0.25,
    "failures": 1,
    "zero_std": False,
}
SAMPLE: dict[str, Any] = {
    "id": "01a204d4-0000-7000-8000-000000000001",
    "step": 10,
    "kind": "heldout",
    "index": 0,
    "prompt": "a small red circle above a large blue square",
    "rewards": {"clip_score": 0.71, "shapes_verifier": 0.83},
    "sde_step": None,
    "granularity": None,
    "attempt": 1,
    "sha256": _SHA256,
    "size": 2210,
    "image": f"/runs/{RUN_ID}/samples/01a204d4-0000-7000-8000-000000000001/image",
}
LOG_PART: dict[str, Any] = {
    "attempt": 1,
    "offset": 0,
    "next_offset": 27,
    "size": 4096,
    "next_attempt": None,
    "text": "step 12 of 60: reward 0.68\n",
}
CHECKPOINT_SUMMARY: dict[str, Any] = {
    "id": _CHECKPOINT_ID,
    "run_id": RUN_ID,
    "name": "",
    "attempt": 1,
    "step": 60,
    "kind": "lora",
    "model": "shapes-flux",
    "architecture": _SHA256,
    "size": 812345,
    "best_value": None,
    "created_at": "2026-01-01T12:05:00Z",
    "deleted_at": None,
}
CHECKPOINT: dict[str, Any] = {
    **CHECKPOINT_SUMMARY,
    "files": [
        {
            "name": "pytorch_lora_weights.safetensors",
            "sha256": _SHA256,
            "size": 810000,
            "url": f"/checkpoints/{_CHECKPOINT_ID}/files/pytorch_lora_weights.safetensors",
        }
    ],
    "manifest": {"format": 1, "kind": "lora", "lora_rank": 16, "lora_alpha": 16.0},
}
GENERATION_SUMMARY: dict[str, Any] = {
    "id": _GENERATION_ID,
    **_JOB,
    "status": "succeeded",
    "ended_at": "2026-01-01T12:00:03Z",
    "worker": None,
    "progress": None,
    "model": "shapes-flux",
    "checkpoints": ["base"],
    "total_images": 1,
}
GENERATION: dict[str, Any] = {
    "id": _GENERATION_ID,
    **_JOB,
    "status": "succeeded",
    "ended_at": "2026-01-01T12:00:03Z",
    "worker": None,
    "progress": None,
    "spec": {"model": "shapes-flux", "checkpoints": ["base"], "prompts": ["a red circle"], "seed": 7, "num_images": 1},
    "queue_position": None,
    "total_images": 1,
    "images": [
        {
            "number": 0,
            "checkpoint": "base",
            "prompt_index": 0,
            "image_index": 0,
            "prompt": "a red circle",
            "seed": 7,
            "sha256": _SHA256,
            "size": 2210,
            "url": f"/generations/{_GENERATION_ID}/images/0",
        }
    ],
    "grid": f"/generations/{_GENERATION_ID}/grid.png",
}
SCORE_SUMMARY: dict[str, Any] = {
    "id": _SCORE_ID,
    **_JOB,
    "status": "succeeded",
    "ended_at": "2026-01-01T12:00:03Z",
    "worker": None,
    "progress": None,
    "rewards": ["clip_score"],
    "generation": None,
    "total_images": 1,
}
SCORE: dict[str, Any] = {
    **SCORE_SUMMARY,
    "queue_position": None,
    "versions": [
        {
            "name": "clip_score",
            "kind": "clip",
            "weights": _SHA256,
            "identity": {},
            "scale": "cosine, -1 to 1",
            "range": None,
        },
    ],
    "images": [
        {
            "number": 0,
            "prompt": "a red circle",
            "width": 32,
            "height": 32,
            "sha256": _SHA256,
            "values": [{"reward": "clip_score", "status": "ok", "value": 0.93, "normalised": 0.93, "cause": None}],
        }
    ],
}
EVALUATION_SUMMARY: dict[str, Any] = {
    "id": _EVALUATION_ID,
    **_JOB,
    "name": "the base",
    "model": "shapes-flux",
    "checkpoint": "base",
    "benchmark": "shapes-bench",
    "judge": "perception",
    "total_images": 80,
    "overall": None,
}
EVALUATION: dict[str, Any] = {
    **EVALUATION_SUMMARY,
    "spec": {"model": "shapes-flux", "benchmark": "shapes-bench", "judge": "perception", "limit": 20, "seed": 3407},
    "prompts": 20,
    "benchmark_prompts": 200,
    "data_sha256": _SHA256,
    "content_sha256": _SHA256,
    "template_sha256": _SHA256,
    "definitions_sha256": _SHA256,
    "queue_position": None,
    "eta_seconds": 192.5,
    "seconds_used": 0.0,
    "images": 40,
    "judged": 11,
    "failed": 1,
    "scores": None,
    "rewards": {"clip_score": {"mean": 0.71, "interval95": [0.69, 0.73], "images": 40, "failures": 0}},
}
PROMPT_SET: dict[str, Any] = {
    "name": "mine-train",
    "origin": "uploaded",
    "description": "Prompts of the lab.",
    "id": "01a204d9-1c3e-7d4a-8b5f-2a3b4c5d6e7f",
    "prompts": 900,
    "size": 61234,
    "sha256": _SHA256,
    "format": "jsonl",
    "counts": {"lines": 1040, "kept": 1000, "duplicates": 37, "blank": 3, "unusable": 0},
    "split": {"part": "train", "heldout": 100, "seed": 0},
    "created_at": "2026-01-01T12:00:00Z",
}
PROMPT_SET_UPLOAD: dict[str, Any] = {"prompt_sets": [PROMPT_SET], "left_out": []}
PROMPT: dict[str, Any] = {"index": 0, "prompt": "a red circle", "metadata": {"source": "mine"}}
BENCHMARK_SUMMARY: dict[str, Any] = {
    "name": "unigenbench-en",
    "title": "UniGenBench++, English, short prompts",
    "language": "en",
    "length": "short",
    "prompt_count": 600,
    "point_count": 1813,
    "file": "test_prompts_en.csv",
    "data_sha256": _SHA256,
    "pinned": True,
    "content_sha256": _SHA256,
    "template_sha256": _SHA256,
    "definitions_sha256": _SHA256,
    "imported_at": "2026-01-01T12:00:00Z",
}
BENCHMARK: dict[str, Any] = {
    **BENCHMARK_SUMMARY,
    "repairs": [{"row": 511, "index": 509, "description": 'added a comma between "A" and "B"'}],
    "left_out": [],
    "dimensions": {"Style": 250, "World Knowledge": 158},
    "judge": {
        "template": "Does the image show «{prompt}»? Say so for each of {testpoint}.",
        "definitions": {"Style": "How it is painted."},
        "definitions_heading": "What they mean",
        "descriptions_heading": "What is meant",
    },
    "prompts": {
        "items": [
            {
                "index": 0,
                "text": "an oak, painted in ink",
                "category": "Art",
                "subcategory": "Painting",
                "subject": "Plant",
                "sentence_structure": "Descriptive",
                "points": [{"name": "Style", "dimension": "Style", "description": "painted in ink"}],
            }
        ],
        "next_cursor": "WzBd",
    },
}
_ACCURACY: dict[str, Any] = {
    "correct": 571,
    "total": 991,
    "accuracy": 0.5762,
    "interval95": [0.545, 0.607],
    "failures": 9,
}
RESCORE: dict[str, Any] = {
    "benchmark": "unigenbench-en",
    "data_sha256": _SHA256,
    "content_sha256": _SHA256,
    "file_sha256": _SHA256,
    "form": "answers",
    "scores": {
        "overall": 0.5797,
        "overall_interval95": [0.5664, 0.5927],
        "micro": _ACCURACY,
        "primary": {"Style": _ACCURACY},
        "sub": {"Style": _ACCURACY},
        "prompts": 600,
        "images": 2391,
        "failed_answers": 9,
        "failures": {"no_scores": 9},
        "missing_images": 0,
        "recovered": 2,
        "resamples": 2000,
        "seed": 0,
        "points": None,
    },
}
ANSWER: dict[str, Any] = {
    "index": 0,
    "image_index": 1,
    "number": 1,
    "name": "0_1.png",
    "prompt": "an oak, painted in ink",
    "points": [
        {"position": 0, "name": "Style", "dimension": "Style", "description": "painted in ink", "score": 1},
    ],
    "text": "<analysis>['It is in ink.']</analysis><score>[1]</score>",
    "failure": None,
    "error": "",
    "seconds": 1.5,
    "answered_at": "2026-01-01T12:00:05Z",
    "image_url": f"/evaluations/{_EVALUATION_ID}/images/0/1",
}
IMAGE: dict[str, Any] = {
    "index": 0,
    "image_index": 1,
    "name": "0_1.png",
    "seed": 3408,
    "prompt": "an oak, painted in ink",
    "rewards": {"clip_score": 0.71},
    "sha256": _SHA256,
    "size": 2210,
    "url": f"/evaluations/{_EVALUATION_ID}/images/0/1",
}
_DIFFERENCE: dict[str, Any] = {
    "difference": 0.0321,
    "interval95": [0.012, 0.0524],
    "wins": 181,
    "losses": 122,
    "ties": 297,
}
EVALUATION_COMPARISON: dict[str, Any] = {
    "first": {
        "id": _EVALUATION_ID,
        "label": "shapes-flux",
        "status": "succeeded",
        "model": "shapes-flux",
        "checkpoint": "base",
    },
    "second": {
        "id": _OTHER_EVALUATION_ID,
        "label": "shapes-flux, step 60 of first try",
        "status": "succeeded",
        "model": "shapes-flux",
        "checkpoint": _CHECKPOINT_ID,
    },
    "benchmark": "unigenbench-en",
    "content_sha256": _SHA256,
    "judge": "UniGenBench-EvalModel-qwen-72b-v1",
    "scores": {
        "overall": _DIFFERENCE,
        "micro": _DIFFERENCE,
        "primary": {"Style": _DIFFERENCE},
        "sub": {"Style": _DIFFERENCE},
        "prompts": 600,
        "only_first": 0,
        "only_second": 0,
        "resamples": 2000,
        "seed": 0,
    },
    "rewards": {"clip_score": _DIFFERENCE},
    "warnings": ["steps differs: 30 in the first, 8 in the second"],
}
_PUBLISHED: dict[str, Any] = {
    "evaluation_id": None,
    "content_sha256": None,
    "num_images": None,
    "seed": None,
    "overall_interval95": None,
    "failed_answers": None,
}
LEADERBOARD: dict[str, Any] = {
    "benchmark": "unigenbench-en",
    "columns": ["Overall", "Style"],
    "notes": [],
    "rankings": [
        {
            "benchmark": "unigenbench-en",
            "judge": "UniGenBench-EvalModel-qwen-72b-v1",
            "data_sha256": None,
            "protocol": "published",
            "content_sha256": None,
            "num_images": None,
            "seed": None,
            "notes": [],
            "rows": [
                {
                    "model": "G²RPO",
                    "kind": "published",
                    "source": "G²RPO, supplementary material, Table 2",
                    "benchmark": "unigenbench-en",
                    "judge": "UniGenBench-EvalModel-qwen-72b-v1",
                    "data_sha256": None,
                    "protocol": "published",
                    "values": {"Overall": 69.21, "Style": 76.2},
                    "marks": {"Overall": "best"},
                    **_PUBLISHED,
                }
            ],
        }
    ],
}
RUN_EVENT: dict[str, Any] = {
    "id": 3,
    "time": "2026-01-01T12:00:09Z",
    "attempt": 1,
    "type": "status",
    "data": {"status": "running"},
}
RUN_PROGRESS: dict[str, Any] = {
    "run_id": RUN_ID,
    "status": "running",
    "attempt": 1,
    "progress": _JOB["progress"],
    "eta_seconds": 192.5,
    "queue_position": None,
    "metrics": {"reward/clip_score": {"step": 12, "value": 0.68}},
}
EVALUATION_PROGRESS: dict[str, Any] = {
    "evaluation_id": _EVALUATION_ID,
    "status": "running",
    "attempt": 1,
    "progress": _JOB["progress"],
    "eta_seconds": 192.5,
    "queue_position": None,
}
EVALUATION_END: dict[str, Any] = {"evaluation_id": _EVALUATION_ID, "status": "succeeded", "last_event": 9}
RUN_END: dict[str, Any] = {"run_id": RUN_ID, "status": "succeeded", "last_event": 9}
KEY: dict[str, Any] = {
    "id": "01a204d5-7777-7000-8000-000000000001",
    "name": "the lab",
    "prefix": "g2k_9dKq2Lw7",
    "scopes": ["write"],
    "max_open_jobs": 20,
    "requests_per_minute": None,
    "created_at": "2026-01-01T12:00:00Z",
    "expires_at": "2099-01-01T00:00:00Z",
    "revoked_at": None,
    "last_used_at": "2026-01-02T08:15:00Z",
    "state": "active",
}
KEY_MADE: dict[str, Any] = {**KEY, "last_used_at": None, "key": "g2k_9dKq2Lw7…"}
PROBLEM: dict[str, Any] = {
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "body.algorithm.group_size: Input should be greater than or equal to 2",
    "code": "invalid_request",
    "request_id": "01a204c3-7312-71d9-9300-f5913550663d",
    "errors": [
        {
            "loc": ["body", "algorithm", "group_size"],
            "msg": "Input should be greater than or equal to 2",
            "type": "greater_than_equal",
        }
    ],
}
READY: dict[str, Any] = {
    "status": "ready",
    "checks": [{"name": "database", "ok": True, "detail": "PostgreSQL 18.4", "hint": ""}],
}


def example(value: dict[str, Any]) -> dict[str, Any]:
    """What a model's `json_schema_extra` says to show `value` as its example."""
    return {"examples": [value]}
