"""Named starting points of a run's spec. A field's own default is the `shapes` value; a preset says what differs."""

from typing import Any

# The supplement's Table 1, spelled out: retuning `shapes` must not change it.
_PAPER: dict[str, Any] = {
    "model": "flux-1-dev",
    "sampling": {
        "steps": 16,
        "shift": 3.0,
        "width": 720,
        "height": 720,
        "guidance": 3.5,
        "rollout_batch_size": 12,
        "decode_batch_size": 4,
    },
    "algorithm": {
        "name": "g2rpo",
        "granularities": [1, 2, 3],
        "sde_steps": [0, 1, 2, 3, 4, 5, 6, 7],
        "group_size": 12,
        "eta": 0.7,
        "clip_range": 1e-4,
        "advantage": {"clip_max": 5.0, "std_eps": 1e-8, "std_floor": 1e-5, "scale": "sum"},
    },
    "rewards": [{"name": "hps_v2.1", "weight": 1.0}, {"name": "clip_score", "weight": 1.0}],
    "training": {
        "max_steps": 300,
        "prompts_per_step": 16,
        "update_batch_size": 1,
        "learning_rate": 2e-6,
        "weight_decay": 1e-4,
        "beta1": 0.9,
        "beta2": 0.999,
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "adapter": "full",
        "seed": 42,
        "sampler_seed": 1223627,
    },
    # Sets that an operator's catalog brings along with FLUX.
    "prompts": {"set": "alignment-train"},
    "evaluation": {"every": 10, "prompts": "alignment-heldout", "pairs": 64, "final_pairs": 0},
    "checkpoints": {"every": 50},
}

PRESETS: dict[str, dict[str, Any]] = {
    "shapes": {},
    "shapes-no-mgai": {"algorithm": {"granularities": [1]}},
    "paper": _PAPER,
    "paper-lora": {
        **_PAPER,
        "training": {
            **_PAPER["training"],
            "adapter": "lora",
            "lora_rank": 64,
            "lora_alpha": 128,
            "learning_rate": 2e-5,
        },
    },
}


def merge(preset: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """`preset` with every explicitly given field in its place; objects merge field by field, everything else replaces.

    An `algorithm` of another name, and `prompts`, replace the preset's as a whole: their fields belong together.
    """
    merged = dict(preset)
    for key, value in explicit.items():
        base = merged.get(key)
        whole = key == "prompts" or (
            key == "algorithm"
            and isinstance(base, dict)
            and isinstance(value, dict)
            and value.get("name", base.get("name")) != base.get("name")
        )
        both_objects = isinstance(base, dict) and isinstance(value, dict)
        merged[key] = merge(base, value) if both_objects and not whole else value  # type: ignore[arg-type]
    return merged
