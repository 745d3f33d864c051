"""Estimate a run's device memory by phase and part, from its spec and the catalog.

All figures are in bytes for one process with one device. Weights, gradients, optimizer moments, the copy of the base
weights that is restored after merged sampling, stored latents, and stored adapter inputs are exact. Activations are
estimated as multiples of tokens × width. The activations of the update are fitted to FLUX.1-dev's transformer with a
small adapter at 720×720 on an H100: 25.7 GB and 29.7 GB with gradient checkpointing at batch sizes 1 and 4, and 39.1 GB
without gradient checkpointing at batch size 1. The activations of forward passes, decoder and rewards are not measured;
they are deliberately overestimated.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from service.contracts.base import Contract
from service.contracts.catalog import ModelEntry, RewardEntry
from service.contracts.runs import RunSpec

Phase = Literal["encoding", "rollout", "scoring", "update"]
_BYTES = {"float32": 4, "bfloat16": 2}
_FLOAT32 = 4

_SAVED = 16.6
"""Number of activations that a block stores for the backward pass."""
_RECOMPUTED = 28.5
"""Number of activations in the block being recomputed, in addition to one stored input per block."""
_FORWARD = 20
"""Number of live activations in a forward pass: input, query, key, value, and the 4× wider feed-forward layer."""
_DECODED = 10
"""Number of tensors with 128 channels at image size that are live in the decoder's last stage."""
_DECODER_CHANNELS = 128
_SCORED_BYTES = 50_000_000
"""Activation bytes per image in a ViT-H/14 in float32."""
_ENCODED_ROWS = 8
_ENCODED_BYTES = 30_000_000
"""Activation bytes per prompt of 512 tokens in T5-XXL in bfloat16."""
_CONTEXT_BYTES = 700_000_000
"""Bytes of the CUDA context, workspaces and library kernels."""
_FRAGMENTED = 0.03
"""Share of allocated memory that is lost to fragmentation."""


class PhaseMemory(Contract):
    """Estimated device memory of one process in one phase, in bytes."""

    phase: Phase
    parts: dict[str, int] = Field(description="Bytes by part.")
    total: int


class Memory(Contract):
    """Estimated device memory of one process, in bytes."""

    phases: tuple[PhaseMemory, ...]
    total: int = Field(description="Maximum over the phases.")
    peak: Phase = Field(description="The phase with the maximum.")

    @property
    def peak_phase(self) -> PhaseMemory:
        """The entry of `phases` with the maximum memory."""
        return next(phase for phase in self.phases if phase.phase == self.peak)


def estimate(spec: RunSpec, model: ModelEntry, rewards: Sequence[RewardEntry]) -> Memory:
    """Estimate the device memory of a run.

    `rewards` are the training and held-out rewards. Rewards without `parameters`, such as remote rewards, count as 0.
    """
    always = _always(spec, model)
    local = sum(reward.parameters or 0 for reward in rewards) * _FLOAT32
    offloaded = spec.resources.offload_rewards
    held = {} if offloaded else {"rewards": local}
    rollout, trajectories = _rollout(spec, model), _trajectories(spec, model)
    dtype = _BYTES[precision(spec, model)]
    encoders = {"text encoders": model.encoder_parameters * dtype, "activations": _ENCODED_ROWS * _ENCODED_BYTES}
    scoring = {"rewards": local, "activations": _decoding(spec, model, any(reward.parameters for reward in rewards))}
    phases = (
        _phase("encoding", always | held | (encoders if model.max_size > 64 else {})),
        _phase("rollout", always | held | _gathered(spec, model) | trajectories | rollout),
        _phase("scoring", always | trajectories | scoring),
        _phase("update", always | held | trajectories | _update(spec, model)),
    )
    peak = max(phases, key=lambda phase: phase.total)
    return Memory(phases=phases, total=peak.total, peak=peak.phase)


def precision(spec: RunSpec, model: ModelEntry) -> str:
    """Return the precision of the transformer.

    If both the spec and the catalog say `auto`, it is float32 for small models, which run on CPU, and otherwise
    bfloat16.
    """
    chosen = next((dtype for dtype in (spec.training.precision, model.dtype) if dtype != "auto"), None)
    return chosen or ("bfloat16" if model.max_size > 64 else "float32")


def lora_parameters(model: ModelEntry, rank: int) -> int:
    """Return the number of parameters of a LoRA: rank × (inputs + outputs), summed over the targeted layers."""
    return rank * sum(inner + outer for _, inner, outer in targeted(model))


def targeted(model: ModelEntry) -> list[tuple[str, int, int]]:
    """Return name, number of inputs and number of outputs of each linear layer that a LoRA targets."""
    return [
        layer
        for layer in _layers(model)
        if any(layer[0] == ending or layer[0].endswith(f".{ending}") for ending in model.lora_targets)
    ]


def tokens(model: ModelEntry, width: int, height: int) -> int:
    """Return the number of tokens for an image of `width` × `height` pixels and its prompt."""
    return image_tokens(model, width, height) + model.text_length


def image_tokens(model: ModelEntry, width: int, height: int) -> int:
    """Return the number of tokens for an image of `width` × `height` pixels."""
    return (width // model.token_pixels) * (height // model.token_pixels)


def _layers(model: ModelEntry) -> list[tuple[str, int, int]]:
    """Return name, number of inputs and number of outputs of the linear layers in all blocks, and of the last layer."""
    width, found = model.hidden_size, []
    for block in range(model.blocks):
        # The last joint block of Stable Diffusion 3 does not update the text stream.
        both = model.family == "flux" or block < model.blocks - 1
        joint = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"]
        names = [f"attn.{name}" for name in joint + ["to_add_out"] * both]
        if block < model.dual_attention_blocks:
            names += [f"attn2.{name}" for name in joint[:4]]
        found += [(name, width, width) for name in names]
        for stream in ["ff", "ff_context"] if both else ["ff"]:
            found += [(f"{stream}.net.0.proj", width, 4 * width), (f"{stream}.net.2", 4 * width, width)]
    for _ in range(model.single_blocks):
        found += [(f"single.attn.{name}", width, width) for name in ("to_q", "to_k", "to_v")]
        found += [("single.proj_mlp", width, 4 * width), ("single.proj_out", 5 * width, width)]
    return [*found, ("proj_out", width, model.out_channels)]


def _always(spec: RunSpec, model: ModelEntry) -> dict[str, int]:
    """Return the bytes of the parts that stay in memory for the whole run."""
    training, dtype = spec.training, _BYTES[precision(spec, model)]
    processes = spec.resources.processes_per_node
    averages = 1 if training.ema_decay is not None else 0
    decoder = {"decoder": model.decoder_parameters * dtype}
    if training.adapter == "full":
        share = model.parameters // processes
        weights = {"master weights": share * _FLOAT32, "optimizer moments": 2 * share * _FLOAT32}
        return weights | ({"moving average": share * _FLOAT32} if averages else {}) | decoder
    adapter = lora_parameters(model, training.lora_rank)
    parts = {
        "weights": model.parameters * dtype,
        "copy of base weights": sum(inner * outer for _, inner, outer in targeted(model)) * dtype,
        "adapter": adapter * _FLOAT32,
        "optimizer moments": 2 * adapter * _FLOAT32,
    }
    return parts | ({"moving average": adapter * _FLOAT32} if averages else {}) | decoder


def _gathered(spec: RunSpec, model: ModelEntry) -> dict[str, int]:
    """Return the bytes of the full weights for sampling with adapter `full`.

    These are the gathered weights with several processes, or autocast's copy for a single process.
    """
    if spec.training.adapter == "lora":
        return {}
    return {"weights for sampling": model.parameters * _BYTES[precision(spec, model)]}


def _prompts(spec: RunSpec) -> int:
    return spec.training.prompts_per_step // spec.resources.processes_per_node


def _latent_bytes(spec: RunSpec, model: ModelEntry) -> int:
    return image_tokens(model, spec.sampling.width, spec.sampling.height) * model.out_channels * _FLOAT32


def _trajectories(spec: RunSpec, model: ModelEntry) -> dict[str, int]:
    """Return the bytes of the latents stored until the end of the step: trained states, samples and final latents."""
    algorithm = spec.algorithm
    cost = algorithm.cost(spec.sampling.steps, 0, spec.training.seed)
    samples = algorithm.group_size if algorithm.name == "g2rpo" else 1
    latents = cost.images + algorithm.trained(spec.sampling.steps) * (1 + samples)
    return {"trajectories": _prompts(spec) * latents * _latent_bytes(spec, model)}


def _rollout(spec: RunSpec, model: ModelEntry) -> dict[str, int]:
    """Return the bytes of the activations in a forward pass, and of the samples waiting to be evaluated."""
    images = spec.algorithm.cost(spec.sampling.steps, 0, spec.training.seed).images
    rows = spec.sampling.rollout_batch_size * model.passes(spec.sampling.guidance)
    return {
        "waiting samples": _prompts(spec) * images * _latent_bytes(spec, model),
        "activations": rows * _FORWARD * _activation(spec, model),
    }


def _decoding(spec: RunSpec, model: ModelEntry, scores: bool) -> int:
    sampling = spec.sampling
    pixels = sampling.width * sampling.height
    each = _DECODED * _DECODER_CHANNELS * pixels * _BYTES[precision(spec, model)]
    scored = _SCORED_BYTES if scores and model.max_size > 64 else 0
    return sampling.decode_batch_size * (each + 2 * 3 * pixels * _FLOAT32 + scored)


def _update(spec: RunSpec, model: ModelEntry) -> dict[str, int]:
    training, blocks = spec.training, model.blocks + model.single_blocks
    multiple = blocks + _RECOMPUTED if training.gradient_checkpointing else _SAVED * blocks
    rows = training.update_batch_size * model.passes(spec.sampling.guidance)
    parts = {"activations": int(rows * multiple * _activation(spec, model))}
    if training.adapter == "lora":
        inputs = _adapter_inputs(spec, model) // (blocks if training.gradient_checkpointing else 1)
        gradients = lora_parameters(model, training.lora_rank) * _FLOAT32
        return parts | {"adapter's inputs": rows * inputs, "gradients": gradients}
    processes = spec.resources.processes_per_node
    parts["gradients"] = model.parameters // processes * _FLOAT32
    if processes == 1 and precision(spec, model) != "float32":
        parts["autocast copy"] = model.parameters * _BYTES[precision(spec, model)]
    return parts


def _adapter_inputs(spec: RunSpec, model: ModelEntry) -> int:
    """Return the bytes per sample of the float32 input copies that the adapted layers store."""
    if precision(spec, model) == "float32":
        return 0  # the layers' own inputs are used
    image = image_tokens(model, spec.sampling.width, spec.sampling.height)

    def input_tokens(layer: str) -> int:
        if layer.startswith("single."):
            return image + model.text_length
        return model.text_length if "add_" in layer or layer.startswith("ff_context.") else image

    return _FLOAT32 * sum(inner * input_tokens(name) for name, inner, _ in targeted(model))


def _activation(spec: RunSpec, model: ModelEntry) -> int:
    """Return the bytes of one activation of one sample: tokens × width × bytes per value."""
    length = tokens(model, spec.sampling.width, spec.sampling.height)
    return length * model.hidden_size * _BYTES[precision(spec, model)]


def _phase(phase: Phase, parts: dict[str, int]) -> PhaseMemory:
    used = {name: size for name, size in parts.items() if size}
    used["context and fragmentation"] = _CONTEXT_BYTES + int(_FRAGMENTED * sum(used.values()))
    return PhaseMemory(phase=phase, parts=used, total=sum(used.values()))
