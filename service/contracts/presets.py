"""Run spec presets. The field defaults form the preset `shapes`; other presets list only the differences."""

from typing import Any

# All values of the supplement's Table 1, so that changes to the field defaults do not affect this preset.
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
        "compile": True,
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
    # These prompt sets are defined in catalogs for FLUX, such as docs/reference/catalogs/flux.yaml.
    "prompts": {"set": "alignment-train"},
    "heldout": {"every": 10, "prompts": "alignment-heldout", "pairs": 64, "final_pairs": 0},
    "checkpoints": {"every": 50},
}


def _like_paper(algorithm: dict[str, Any], training: dict[str, Any], **sampling: int) -> dict[str, Any]:
    """Return a preset with a baseline's published values and the supplement's model, rewards and prompts."""
    return {
        **_PAPER,
        "sampling": {**_PAPER["sampling"], **sampling},
        "algorithm": algorithm,
        "training": {**_PAPER["training"], **training},
    }


_DANCE_GRPO: dict[str, Any] = {
    "name": "dance_grpo",
    "group_size": 12,
    "eta": 0.3,
    "clip_range": 1e-4,
    "timestep_fraction": 0.6,
    "same_noise": True,
    "updates_per_rollout": 3,
}
_MIX_GRPO: dict[str, Any] = {
    "name": "mix_grpo",
    "group_size": 12,
    "eta": 0.7,
    "clip_range": 1e-4,
    "window": {"size": 4, "order": "progressive", "every": 25, "stride": 1},
    "same_noise": True,
    "updates_per_rollout": 4,
    "advantage": {"scale": "mean"},
}
_FLOW_GRPO: dict[str, Any] = {
    "name": "flow_grpo",
    "group_size": 24,
    "eta": 0.9,
    "clip_range": 1e-4,
    "transition": "flow",
    "same_noise": False,
    "updates_per_rollout": 2,
    "kl_weight": 0.0,
    "advantage": {"aggregation": "reward", "std": "batch"},
}
_LORA_64: dict[str, Any] = {"adapter": "lora", "lora_rank": 64, "lora_alpha": 128}

PRESETS: dict[str, dict[str, Any]] = {
    "shapes": {},
    "shapes-no-mgai": {"algorithm": {"granularities": [1]}},
    "shapes-dance-grpo": {"algorithm": {"name": "dance_grpo"}, "training": {"learning_rate": 3e-4, "max_steps": 60}},
    # The window moves every 10 steps instead of the published 25, because the run has 60 steps instead of 300.
    "shapes-mix-grpo": {
        "algorithm": {"name": "mix_grpo", "window": {"every": 10}, "advantage": {"scale": "mean"}},
        "training": {"learning_rate": 1e-3, "max_steps": 60},
    },
    "shapes-flow-grpo": {
        "algorithm": {"name": "flow_grpo", "advantage": {"aggregation": "reward", "std": "batch"}},
        "training": {"learning_rate": 1e-3, "max_steps": 60},
    },
    "paper": _PAPER,
    "paper-lora": {
        **_PAPER,
        # Without gradient checkpointing, the inputs that float32 adapters store on every layer exceed 80 GB.
        "training": {**_PAPER["training"], **_LORA_64, "learning_rate": 2e-5, "gradient_checkpointing": True},
    },
    "paper-no-mgai": {**_PAPER, "algorithm": {**_PAPER["algorithm"], "granularities": [1]}},
    "dance-grpo": _like_paper(_DANCE_GRPO, {"learning_rate": 1e-5}),
    "mix-grpo": _like_paper(_MIX_GRPO, {"learning_rate": 1e-5}, steps=25),
    "mix-grpo-flash": _like_paper(
        {**_MIX_GRPO, "window": {**_MIX_GRPO["window"], "every": 20}, "flash": {"share": 0.4}},
        {"learning_rate": 1e-5},
        steps=25,
    ),
    # The published recipe for FLUX, which updates the moving average only every eighth update.
    "flow-grpo": _like_paper(
        _FLOW_GRPO,
        {**_LORA_64, "learning_rate": 3e-4, "prompts_per_step": 48, "ema_decay": 0.9},
        steps=6,
        width=512,
        height=512,
    ),
}

DESCRIPTIONS: dict[str, str] = {
    "shapes": "G²RPO on the bundled model, as a first run: minutes on two CPU cores.",
    "shapes-no-mgai": "Ablation of `shapes` with one granularity, to measure the effect of several.",
    "shapes-dance-grpo": "The baseline DanceGRPO on the bundled model, to compare with `shapes`.",
    "shapes-mix-grpo": "The baseline MixGRPO on the bundled model, to compare with `shapes`.",
    "shapes-flow-grpo": "The baseline Flow-GRPO on the bundled model, to compare with `shapes`.",
    "paper": "G²RPO on FLUX.1-dev with the paper's values: full training, which needs several large GPUs.",
    "paper-lora": "`paper` with a LoRA of rank 64 in place of full training, to fit on one 80 GB GPU.",
    "paper-no-mgai": "Ablation of `paper` with one granularity, to measure the effect of several.",
    "dance-grpo": "The baseline DanceGRPO on FLUX.1-dev with its published values, to compare with `paper`.",
    "mix-grpo": "The baseline MixGRPO on FLUX.1-dev with its published values, to compare with `paper`.",
    "mix-grpo-flash": "MixGRPO-Flash on FLUX.1-dev: `mix-grpo` with a faster solver after the window.",
    "flow-grpo": "The baseline Flow-GRPO on FLUX.1-dev with its published values and a LoRA, to compare with `paper`.",
}
"""The purpose of each preset."""


def merge(preset: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """Merge explicit fields into a preset. Objects are merged field by field; other values are replaced.

    `prompts` is replaced completely, and so is `algorithm` if the explicit name differs from the preset's.
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
