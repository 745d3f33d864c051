"""LoRA files of other tools: every layer keeps its scale, also in kohya's format and back."""

import json
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import load, save

from service.api.checkpoints.kohya import find, module_of
from service.db.models import Checkpoint
from service.db.session import Database

OCTETS = {"Content-Type": "application/octet-stream"}
JOINT, SINGLE = "transformer_blocks.0", "single_transformer_blocks.1"
WIDTH, RANK = 8, 4
LAYERS = {
    **{f"{JOINT}.attn.{name}": (WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj")},
    f"{JOINT}.ff.net.0.proj": (4 * WIDTH, WIDTH),
    f"{JOINT}.ff_context.net.2": (WIDTH, 4 * WIDTH),
    **{f"{SINGLE}.attn.{name}": (WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v")},
    f"{SINGLE}.proj_mlp": (4 * WIDTH, WIDTH),
    f"{SINGLE}.proj_out": (WIDTH, 5 * WIDTH),
    "proj_out": (2 * WIDTH, WIDTH),
}
"""Rows and columns by layer, with the proportions of FLUX."""
Q = f"{SINGLE}.attn.to_q"


def tensors(ranks: dict[str, int] | None = None) -> dict[str, Any]:
    """A LoRA in diffusers format, of rank 4 except for the layers in `ranks`."""
    generator = np.random.default_rng(0)
    made = {}
    for name, (rows, columns) in LAYERS.items():
        rank = (ranks or {}).get(name, RANK)
        for half, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            made[f"transformer.{name}.lora_{half}.weight"] = generator.standard_normal(shape).astype(np.float32)
    return made


def diffusers(made: dict[str, Any], **config: Any) -> bytes:
    """A file with metadata as diffusers writes it."""
    said = {f"transformer.{name}": value for name, value in config.items()}
    return save(made, {"format": "pt", "lora_adapter_metadata": json.dumps(said)} if config else None)


def updates(made: dict[str, Any], scales: dict[str, float]) -> dict[str, Any]:
    """scale · B · A by layer."""
    return {
        name: scales[name] * made[f"transformer.{name}.lora_B.weight"] @ made[f"transformer.{name}.lora_A.weight"]
        for name in LAYERS
        if f"transformer.{name}.lora_B.weight" in made
    }


def send(client: TestClient, data: bytes, **query: Any) -> Any:
    return client.post("/checkpoints", params={"model": "shapes-flux", **query}, content=data, headers=OCTETS)


def imported(client: TestClient, data: bytes, **query: Any) -> tuple[dict[str, Any], bytes]:
    """The manifest and the stored file of an import."""
    response = send(client, data, **query)
    assert response.status_code == 201, response.text
    [file] = response.json()["files"]
    return response.json()["manifest"], client.get(file["url"]).content


def check(client: TestClient, data: bytes, made: dict[str, Any], scales: dict[str, float], **query: Any) -> None:
    """Import a file and compare the update of every layer."""
    manifest, stored = imported(client, data, **query)
    scale = manifest["lora_alpha"] / manifest["lora_rank"]
    found, expected = updates(load(stored), dict.fromkeys(LAYERS, scale)), updates(made, scales)
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        np.testing.assert_allclose(found[name], update, rtol=1e-5, atol=1e-5, err_msg=name)
    # The metadata of the stored file state the same scale, because diffusers reads them.
    assert imported(client, stored)[0]["lora_alpha"] == manifest["lora_alpha"]


class TestStatedScale:
    @pytest.mark.parametrize(
        ("config", "ranks", "scales"),
        [
            ({}, {}, {}),
            ({"r": 4, "lora_alpha": 8}, {}, {"": 2.0}),
            ({"r": 4, "lora_alpha": 8192}, {}, {"": 2048.0}),
            ({"r": 4, "lora_alpha": 8, "use_rslora": True}, {}, {"": 4.0}),
            ({"r": 4, "lora_alpha": 8, "alpha_pattern": {Q: 64}}, {}, {"": 2.0, Q: 16.0}),
            ({"r": 4, "lora_alpha": 8, "alpha_pattern": {f"^{Q}": 64, "to_q": 2}}, {}, {"": 2.0, "to_q": 0.5, Q: 16.0}),
            ({"r": 4, "lora_alpha": 8, "rank_pattern": {Q: 2}}, {Q: 2}, {"": 2.0, Q: 4.0}),
            ({"r": 4, "lora_alpha": 8, "rank_pattern": {Q: 9}, "use_rslora": True}, {Q: 9}, {"": 4.0, Q: 8 / 3}),
            ({}, {Q: 2}, {"": 1.0}),
        ],
    )
    def test_every_layer_keeps_its_scale(
        self, client: TestClient, config: dict[str, Any], ranks: dict[str, int], scales: dict[str, float]
    ) -> None:
        made = tensors(ranks)
        # The last pattern that ends a name is the most specific one.
        expected = {name: next((v for k, v in [*scales.items()][::-1] if name.endswith(k)), 1.0) for name in LAYERS}
        check(client, diffusers(made, **config), made, expected)

    def test_alpha_tensors(self, client: TestClient) -> None:
        made = tensors()
        alphas = {f"transformer.{name}.alpha": np.float32(2.0 if name == Q else 12.0) for name in LAYERS}
        data = save({**made, **{name: np.array(alpha) for name, alpha in alphas.items()}})
        check(client, data, made, {name: 0.5 if name == Q else 3.0 for name in LAYERS})

    def test_alpha_of_the_request_replaces_everything_in_the_file(self, client: TestClient) -> None:
        made = tensors()
        for config in ({"lora_alpha": 8, "use_rslora": True, "alpha_pattern": {Q: 1}}, {"lora_alpha": "nan"}):
            check(client, diffusers(made, **config), made, dict.fromkeys(LAYERS, 0.5), lora_alpha=2)

    def test_a_plain_file_is_stored_unchanged(self, client: TestClient) -> None:
        data = diffusers(tensors(), r=4, lora_alpha=8, use_rslora=False, alpha_pattern={}, rank_pattern={})
        assert imported(client, data)[1] == data

    def test_bfloat16_keeps_its_values(self, client: TestClient) -> None:
        upper = {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in tensors().items()}
        config = json.dumps({"transformer.lora_alpha": 8, "transformer.use_rslora": True})
        header: dict[str, Any] = {"__metadata__": {"lora_adapter_metadata": config}}
        end = 0
        for name, value in upper.items():
            start, end = end, end + value.nbytes
            header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": (start, end)}
        encoded = json.dumps(header).encode()
        data = len(encoded).to_bytes(8, "little") + encoded + b"".join(value.tobytes() for value in upper.values())
        made = {name: (value.astype(np.uint32) << 16).view(np.float32) for name, value in upper.items()}
        check(client, data, made, dict.fromkeys(LAYERS, 4.0))

    @pytest.mark.parametrize(
        ("metadata", "says"),
        [
            ("{", "must be a JSON object"),
            ("[1]", "must be a JSON object"),
            ("[" * 100_000, "must be a JSON object"),
            *(
                (json.dumps({"lora_alpha": value}), "must be a finite number above 0")
                for value in (0, -8, "nan", "8", True)
            ),
            ('{"lora_alpha": NaN}', "states α nan"),
            ('{"lora_alpha": Infinity}', "states α inf"),
            ('{"lora_alpha": 5e-324}', "must be a finite number above 0, at least 1e-06"),
            ('{"lora_alpha": 1' + "0" * 400 + "}", "must be a finite number above 0"),
            ('{"lora_alpha": 1e308, "use_rslora": true}', "must be a finite number above 0"),
            (
                json.dumps({"lora_alpha": 8, "alpha_pattern": {Q: 0}}),
                f"α 0 for the layer {Q}",
            ),
            (json.dumps({"alpha_pattern": {"(a+)+": 1}}), "alpha_pattern must be an object with names of layers"),
            (json.dumps({"alpha_pattern": [1]}), "alpha_pattern must be an object with names of layers"),
            (
                json.dumps({"r": 4, "rank_pattern": {Q: 2}}),
                f"state rank 2 for the layer {Q}, whose tensors have rank 4",
            ),
            (json.dumps({"r": 8}), "state rank 8"),
            (json.dumps({"use_dora": True}), "DoRA"),
        ],
    )
    def test_a_file_that_states_an_invalid_scale_is_rejected(
        self, client: TestClient, metadata: str, says: str
    ) -> None:
        response = send(client, save(tensors(), {"lora_adapter_metadata": metadata}))
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert says in response.json()["detail"]

    @pytest.mark.parametrize("alpha", [np.float32("nan"), np.float32(0), np.float32(-1), np.ones(2, np.float32)])
    def test_an_invalid_alpha_tensor_is_rejected(self, client: TestClient, alpha: Any) -> None:
        response = send(client, save({**tensors(), f"transformer.{Q}.alpha": np.array(alpha)}))
        assert response.status_code == 422
        says = "has NaN" if np.isnan(alpha).any() else "must be a finite number above 0"
        assert says in response.json()["detail"]

    def test_two_different_values_of_alpha_are_rejected(self, client: TestClient) -> None:
        made = {**tensors(), f"transformer.{Q}.alpha": np.array(16, np.float32)}
        assert "states two values of α" in send(client, diffusers(made, lora_alpha=8)).json()["detail"]


def kohya(client: TestClient, id: str) -> bytes:
    response = client.get(f"/checkpoints/{id}/kohya")
    assert response.status_code == 200, response.text
    assert response.headers["Content-Length"] == str(len(response.content))
    return response.content


class TestKohya:
    @pytest.mark.parametrize("alpha", [16.0, 0.1, 5.0])
    def test_the_round_trip_is_exact(self, client: TestClient, alpha: float) -> None:
        made = tensors()
        id = send(client, diffusers(made, r=4, lora_alpha=alpha)).json()["id"]
        manifest, stored = imported(client, kohya(client, id))
        assert (manifest["lora_rank"], manifest["lora_alpha"]) == (4, alpha)
        back = load(stored)
        assert back.keys() == made.keys()
        for name, value in made.items():
            np.testing.assert_array_equal(back[name], value, err_msg=name)

    def test_every_layer_has_its_name_and_scale(self, client: TestClient) -> None:
        made = tensors()
        file = load(kohya(client, send(client, diffusers(made, r=4, lora_alpha=16)).json()["id"]))
        modules = {name.partition(".")[0] for name in file}
        assert modules == {
            *("lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_double_blocks_0_img_attn_proj"),
            *("lora_unet_double_blocks_0_txt_attn_qkv", "lora_unet_double_blocks_0_img_mlp_0"),
            *("lora_unet_double_blocks_0_txt_mlp_2", "lora_unet_single_blocks_1_linear1"),
            *("lora_unet_single_blocks_1_linear2", "lora_unet_final_layer_linear"),
        }
        found = {}
        for module in modules:  # as ComfyUI computes them
            down, up = file[f"{module}.lora_down.weight"], file[f"{module}.lora_up.weight"]
            found[module] = float(file[f"{module}.alpha"]) / len(down) * up @ down
        expected = updates(made, dict.fromkeys(LAYERS, 4.0))
        qkv = np.concatenate([expected[f"{JOINT}.attn.to_{name}"] for name in "qkv"])
        mixed = [*(f"{SINGLE}.attn.to_{name}" for name in "qkv"), f"{SINGLE}.proj_mlp"]
        added = np.concatenate([expected[f"{JOINT}.attn.add_q_proj"], np.zeros((2 * WIDTH, WIDTH))])
        for module, update in (
            ("double_blocks_0_img_attn_qkv", qkv),
            ("double_blocks_0_txt_attn_qkv", added),
            ("double_blocks_0_img_attn_proj", expected[f"{JOINT}.attn.to_out.0"]),
            ("single_blocks_1_linear1", np.concatenate([expected[name] for name in mixed])),
            ("single_blocks_1_linear2", expected[f"{SINGLE}.proj_out"]),
            ("final_layer_linear", expected["proj_out"]),
        ):
            np.testing.assert_allclose(found[f"lora_unet_{module}"], update, rtol=1e-5, atol=1e-5, err_msg=module)

    def test_a_file_of_sd_scripts_with_shared_projections(self, client: TestClient) -> None:
        """A trained file has one dense `lora_up` for all projections, and float16 tensors."""
        generator = np.random.default_rng(1)
        base = "lora_unet_single_blocks_1_linear1"
        down, up = generator.standard_normal((6, WIDTH)), generator.standard_normal((7 * WIDTH, 6))
        file = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": np.array(3)}
        file = {name: value.astype(np.float16) for name, value in file.items()}
        manifest, stored = imported(client, save(file))
        assert (manifest["lora_rank"], manifest["lora_alpha"]) == (6, 3.0)
        update = (
            0.5
            * file[f"{base}.lora_up.weight"].astype(np.float32)
            @ file[f"{base}.lora_down.weight"].astype(np.float32)
        )
        found = updates(load(stored), dict.fromkeys(LAYERS, 0.5))
        names = [*(f"{SINGLE}.attn.to_{name}" for name in "qkv"), f"{SINGLE}.proj_mlp"]
        assert found.keys() == set(names)
        np.testing.assert_allclose(np.concatenate([found[name] for name in names]), update, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"lora_te1_text_model.lora_down.weight": np.zeros((4, 8), np.float32)}, "lora_te1_text_model"),
            ({"lora_unet_joint_blocks_0_x_block_attn_qkv.alpha": np.zeros((), np.float32)}, "is of the family 'flux'"),
            ({"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": None}, "each needs lora_A"),
            ({"lora_unet_double_blocks_0_img_attn_qkv.alpha": np.array(0, np.float32)}, "finite number above 0"),
            (
                {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": np.zeros((25, 12), np.float32)},
                "has 25 rows; expected a multiple of 3",
            ),
            (
                {
                    "lora_unet_double_blocks_0_img_mod_lin.lora_down.weight": np.zeros((4, 8), np.float32),
                    "lora_unet_double_blocks_0_img_mod_lin.lora_up.weight": np.zeros((8, 4), np.float32),
                },
                "Unsupported layers transformer_blocks.0.norm1.linear",
            ),
        ],
    )
    def test_a_file_that_does_not_fit_is_rejected(self, client: TestClient, change: dict[str, Any], says: str) -> None:
        file = load(kohya(client, send(client, diffusers(tensors(), r=4, lora_alpha=16)).json()["id"]))
        data = save({name: value for name, value in {**file, **change}.items() if value is not None})
        response = send(client, data)
        assert response.status_code == 422, response.text
        assert says in response.json()["detail"]

    def test_stable_diffusion_has_its_own_names(self) -> None:
        for layer, module in (
            ("transformer_blocks.23.attn2.to_k", "joint_blocks_23_x_block_attn2_qkv"),
            ("transformer_blocks.0.attn.add_v_proj", "joint_blocks_0_context_block_attn_qkv"),
            ("transformer_blocks.0.ff_context.net.2", "joint_blocks_0_context_block_mlp_fc2"),
        ):
            found = module_of("sd3", layer)
            assert found is not None and found.name == module and layer in found.parts
            assert find("sd3", module) == found
        assert module_of("sd3", "proj_out") is None

    def test_full_weights_have_no_lora(self, client: TestClient, database: Database, records: Any) -> None:
        checkpoint = records.checkpoint(records.run("succeeded"), {"transformer/model.safetensors": b"weights"})
        with database.transaction() as session:
            row = session.get_one(Checkpoint, checkpoint.id)
            row.kind, row.manifest = "full", {**row.manifest, "kind": "full", "lora_rank": None, "lora_alpha": None}
        response = client.get(f"/checkpoints/{checkpoint.id}/kohya")
        assert (response.status_code, response.json()["code"]) == (409, "wrong_state")
        assert "needs a LoRA" in response.json()["detail"]


def test_an_alpha_that_underflows_is_refused(client: TestClient) -> None:
    response = send(client, save(tensors()), lora_alpha=5e-324)
    assert response.status_code == 422 and "0.000001" in response.text
