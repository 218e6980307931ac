"""Prismatic's own checkpoints, written here by a script of the tests' own, and computed by it a second time."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import LANGUAGES, tiny_tokenizer, untyped
from torch import Tensor
from transformers import AutoModelForCausalLM

import vlm_probe
from vlm_probe.checkpoints import prismatic
from vlm_probe.errors import VlmProbeError
from vlm_probe.findings.e2_twins import twins_apart
from vlm_probe.findings.engine import generated_items
from vlm_probe.hooked.verifying import verify
from vlm_probe.inputs.fitting import Fit
from vlm_probe.store import capture, open_store

PIXELS, PATCH, GRID = 16, 3, 5
"""The last row and column of pixels belong to no patch."""
DEPTH = {"dino": 3, "siglip": 4, "clip": 3}
WIDTH = {"dino": 64, "siglip": 128, "clip": 64}
SINGLE, FUSED = {"dino": "dinov2-vit-l", "siglip": "siglip-vit-so400m", "clip": "clip-vit-l"}, "dinosiglip-vit-so-224px"
ROWS, WORDS = 97, 42
"""Of the language model's vocabulary, whose image placeholder is behind it."""


def timm_weights(kind: str, seed: int) -> dict[str, Tensor]:
    """Random weights by timm's names."""
    generator = torch.Generator().manual_seed(seed)
    width, inner = WIDTH[kind], 2 * WIDTH[kind]

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.15

    made = {"patch_embed.proj.weight": draw(width, 3, PATCH, PATCH), "pos_embed": draw(1, GRID**2, width)}
    if kind != "clip":
        made["patch_embed.proj.bias"] = draw(width)
    if kind != "siglip":
        made["cls_token"] = draw(1, 1, width)
    if kind == "dino":
        made["reg_token"] = draw(1, 4, width)
    if kind == "clip":
        made["pos_embed"] = draw(1, GRID**2 + 1, width)
        made |= {"norm_pre.weight": 1 + draw(width), "norm_pre.bias": draw(width)}
    if kind == "siglip":
        made["attn_pool.latent"] = draw(1, 1, width)
    for i in range(DEPTH[kind]):
        at = f"blocks.{i}."
        for name in ("norm1", "norm2"):
            made |= {f"{at}{name}.weight": 1 + draw(width), f"{at}{name}.bias": draw(width)}
        for name, (out, into) in {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (inner, width),
            "mlp.fc2": (width, inner),
        }.items():
            made |= {f"{at}{name}.weight": draw(out, into), f"{at}{name}.bias": draw(out)}
        if kind == "dino":
            made |= {f"{at}ls{n}.gamma": 1 + draw(width) for n in (1, 2)}
    return made | {"norm.weight": 1 + draw(width), "norm.bias": draw(width)}


def timm_features(kind: str, w: dict[str, Tensor], pixels: Tensor, *, quick: bool) -> Tensor:
    """Patches behind the last layer but one, by timm's own way of computing."""
    eps, heads = (1e-5 if kind == "clip" else 1e-6), WIDTH[kind] // 64
    x = F.conv2d(pixels, w["patch_embed.proj.weight"], w.get("patch_embed.proj.bias"), stride=PATCH)
    x = x.flatten(2).transpose(1, 2)
    n = len(x)
    if kind == "clip":
        x = torch.cat([w["cls_token"].expand(n, -1, -1), x], dim=1) + w["pos_embed"]
        x = F.layer_norm(x, x.shape[-1:], w["norm_pre.weight"], w["norm_pre.bias"], eps)
    else:
        x = x + w["pos_embed"]
    if kind == "dino":
        x = torch.cat([w["cls_token"].expand(n, -1, -1), w["reg_token"].expand(n, -1, -1), x], dim=1)
    for i in range(DEPTH[kind] - 1):

        def linear(name: str, y: Tensor, i: int = i) -> Tensor:
            return F.linear(y, w[f"blocks.{i}.{name}.weight"], w[f"blocks.{i}.{name}.bias"])

        def norm(name: str, y: Tensor, i: int = i) -> Tensor:
            return F.layer_norm(y, y.shape[-1:], w[f"blocks.{i}.{name}.weight"], w[f"blocks.{i}.{name}.bias"], eps)

        q, k, v = linear("attn.qkv", norm("norm1", x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        z = ((q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        one, two = (w.get(f"blocks.{i}.ls{number}.gamma", torch.ones(())) for number in (1, 2))
        x = x + one * linear("attn.proj", z.transpose(1, 2).flatten(2))
        y = linear("mlp.fc1", norm("norm2", x))
        x = x + two * linear("mlp.fc2", y * torch.sigmoid(1.702 * y) if quick else F.gelu(y))
    return x[:, -(GRID**2) :]


class Run:
    """A run as Prismatic writes it, and what it computes."""

    def __init__(self, folder: Path, kinds: tuple[str, ...], projector: str, language: str):
        self.folder, self.kinds, self.projector = folder / "prism", kinds, projector
        torch.manual_seed(3)
        settings = LANGUAGES[language]()
        self.llm: Any = AutoModelForCausalLM.from_config(settings).eval()
        with torch.no_grad():
            for parameter in self.llm.parameters():
                parameter.normal_(0.02, 0.15)
        self.encoders = {kind: timm_weights(kind, seed) for seed, kind in enumerate(kinds)}
        into = sum(WIDTH[kind] for kind in kinds)
        widths = {"linear": [WORDS], "gelu-mlp": [WORDS] * 2, "fused-gelu-mlp": [4 * into, WORDS, WORDS]}[projector]
        self.layers = []
        for width in widths:
            self.layers.append((torch.randn(width, into) * 0.15, torch.randn(width) * 0.15))
            into = width
        (self.folder / "checkpoints").mkdir(parents=True)
        beside = folder / Path(prismatic.LANGUAGES[self.llm_id(language)][0]).name
        settings.save_pretrained(beside)
        tokenizer = tiny_tokenizer()
        tokenizer.save_pretrained(beside)
        for file in beside.glob("tokenizer*.json"):  # their tokenizers know no image
            file.write_text(file.read_text().replace("<image>", "<other>"))
        about: dict[str, Any] = {
            "model_id": "prism",
            "vision_backbone_id": FUSED if len(kinds) > 1 else SINGLE[next(iter(kinds))],
            "llm_backbone_id": self.llm_id(language),
            "arch_specifier": f"no-align+{projector}",
            "image_resize_strategy": "letterbox",
            "llm_max_length": 211,
        }
        self.about = {"model": about, "stage": "finetune", "seed": 7}
        self.write()

    @staticmethod
    def llm_id(language: str) -> str:
        return {"llama": "vicuna-v15-7b", "mistral": "mistral-v0.1-7b-pure", "phi": "phi-2-3b"}[language]

    def names(self) -> dict[str, str]:
        return {kind: f"{kind}_featurizer" if len(self.kinds) > 1 else "featurizer" for kind in self.kinds}

    def parts(self) -> dict[str, Any]:
        number = "projector.{}." if self.projector != "linear" else "projector."
        projector = {}
        for i, (weight, bias) in enumerate(self.layers):
            at = number.format(2 * i)
            projector |= {f"{at}weight": weight, f"{at}bias": bias}
        language = {f"llm.{name}": value for name, value in self.llm.state_dict().items()}
        vision = {
            f"{self.names()[kind]}.{name}": value
            for kind, weights in self.encoders.items()
            for name, value in weights.items()
        }
        return {"projector": projector, "llm_backbone": language, "vision_backbone": vision}

    def write(self, **changes: Any) -> None:
        (self.folder / "config.json").write_text(json.dumps(self.about))
        held = {"model": {**self.parts(), **changes}, "optimizer": {}}
        held["model"] = {name: part for name, part in held["model"].items() if part is not None}
        torch.save(held, self.folder / "checkpoints" / "latest-checkpoint.pt")

    @torch.no_grad()
    def logits(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """Of ids without placeholders, whose image stands behind the first."""
        quick = len(self.kinds) == 1
        features = [
            timm_features(kind, weights, own, quick=quick and kind == "clip")
            for (kind, weights), own in zip(self.encoders.items(), pixels.chunk(len(self.kinds), 1), strict=True)
        ]
        x = torch.cat(features, dim=-1)
        for i, (weight, bias) in enumerate(self.layers):
            x = F.linear(F.gelu(x) if i else x, weight, bias)
        words = self.llm.get_input_embeddings()(ids)
        return self.llm(inputs_embeds=torch.cat([words[:, :1], x, words[:, 1:]], dim=1)).logits


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The encoders of the ids are as large as the tests' own."""
    for name in (*SINGLE.values(), FUSED):
        monkeypatch.setitem(prismatic.BACKBONES, name, (PIXELS, prismatic.BACKBONES[name][1]))
    # Phi's own first token is another one of the tests' tokenizer.
    phi, prompt = prismatic.LANGUAGES["phi-2-3b"]
    monkeypatch.setitem(prismatic.LANGUAGES, "phi-2-3b", (phi, prompt.replace("<|endoftext|>", "<bos>")))


RUNS = [
    (("dino",), "gelu-mlp", "llama"),
    (("siglip",), "linear", "mistral"),
    (("clip",), "gelu-mlp", "llama"),
    (("dino", "siglip"), "fused-gelu-mlp", "phi"),
]


@pytest.mark.parametrize(("kinds", "projector", "language"), RUNS)
def test_a_run_opens_and_computes_what_prismatic_does(kinds, projector, language, tmp_path):
    run = Run(tmp_path, kinds, projector, language)
    model = vlm_probe.load(run.folder, device="cpu")
    picture = np.random.default_rng(2).integers(0, 255, (20, 29, 3), dtype=np.uint8)
    inputs = model.prepare(picture, "what?")
    assert inputs.layout.image().positions.tolist() == list(range(1, 1 + GRID**2)), "behind the first token"
    assert inputs.pixel_values is not None
    ids = inputs.input_ids[inputs.input_ids != ROWS][None]
    expected = run.logits(ids, inputs.pixel_values)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs).logits[..., :ROWS], expected, atol=2e-5, rtol=1e-5)
    assert untyped(verify(model)["ok"]).all()
    assert model.answer(picture, "what?", max_new_tokens=3) is not None
    assert ROWS not in model.answer_tokens(inputs, max_new_tokens=7)[0], "the placeholder is never said"
    model.save_pretrained(tmp_path / "saved")
    again = vlm_probe.load(tmp_path / "saved", device="cpu")
    assert again.prompt == model.prompt
    with torch.no_grad():
        assert again(again.prepare(picture, "what?")).logits.equal(model(inputs).logits)


def test_each_encoder_gets_the_picture_as_it_is_used_to(tmp_path):
    """Padded with its own mean, and normalised by its own numbers."""
    model = vlm_probe.load(Run(tmp_path, ("dino", "siglip"), "fused-gelu-mlp", "llama").folder, device="cpu")
    seen = model.inputs.see(Image.new("RGB", (32, 16), (255, 255, 255)))
    assert seen.pixels.shape == (6, PIXELS, PIXELS)
    middle, edge = seen.pixels[:, PIXELS // 2, PIXELS // 2], seen.pixels[:, 0, PIXELS // 2]
    torch.testing.assert_close(middle[3:], torch.ones(3))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(middle[:3], (1 - mean) / std)
    assert edge.abs().max() < 0.02, "the mean colour is zero behind the norm"
    box = model.prepare(Image.new("RGB", (32, 16)), "what?").layout.image().patch_to_box(1, 0)
    assert (box.left, box.top) == (0, pytest.approx(2 * PATCH - 8))


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        # 83 pixels on both sides of 333 leave a square of 499 x 500, whose longer side stays 224.
        (Fit("letterbox", 224, 224), (333, 500), (-83.0, 0.0)),
        (Fit("letterbox", 224, 224), (400, 200), (0.0, -100.0)),
        # 641 x 480 becomes 299 x 224: of 75 pixels too many torchvision leaves out 38 on the left.
        (Fit("resize-crop", 224, 224), (641, 480), (38 * 641 / 299, 0.0)),
        (Fit("resize-crop", 224, 248), (480, 480), (12 * 480 / 248, 12 * 480 / 248)),
        (Fit("resize-naive", 224, 224), (641, 480), (0.0, 0.0)),
    ],
)
def test_a_picture_is_made_a_square_as_torchvision_does(fit, size, expected):
    """Hand-worked: where the square's corner lies in the picture."""
    made, transform = fit(Image.new("RGB", size, (9, 9, 9)), (1, 2, 3))
    assert made.size == transform.size == (224, 224)
    corner = transform.to_original((0, 0, 224, 224))
    assert (corner.left, corner.top) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert made.getpixel((112, 112)) == (9, 9, 9)
    if fit.kind == "letterbox":
        assert made.getpixel((0, 0)) == (1, 2, 3)


def test_a_capture_of_two_encoders_opens_again(tmp_path):
    """Their activations have other numbers of rows."""
    model = vlm_probe.load(Run(tmp_path, ("dino", "siglip"), "fused-gelu-mlp", "llama").folder, device="cpu")
    points = ["vision.*.hook_resid_post", "connector.hook_out"]
    capture(model, generated_items(1), points, tmp_path / "store", positions="all")
    kept = open_store(tmp_path / "store")
    found = [kept[f"vision.{i}.blocks.1.hook_resid_post"].shape[1] for i in (0, 1)]
    assert found == [GRID**2 + 5, GRID**2]
    with pytest.raises(VlmProbeError, match=r"E2 is of one encoder, and .* has several: vision\.0, vision\.1"):
        twins_apart(model, generated_items(4))


def test_encoders_that_were_not_trained_come_from_beside(tmp_path):
    run = Run(tmp_path, ("dino",), "gelu-mlp", "llama")
    run.write(vision_backbone=None)
    with pytest.raises(VlmProbeError, match="which was not trained, could not be opened: put its folder as timm"):
        vlm_probe.load(run.folder, device="cpu")
    beside = tmp_path / prismatic.BACKBONES[SINGLE["dino"]][1]["featurizer"]
    beside.mkdir()
    (beside / "config.json").write_text(json.dumps({"architecture": "vit_large_patch14_reg4_dinov2"}))
    torch.save(run.encoders["dino"], beside / "pytorch_model.bin")
    model = vlm_probe.load(run.folder, device="cpu")
    inputs = model.prepare(np.zeros((9, 9, 3), dtype=np.uint8), "what?")
    assert inputs.pixel_values is not None
    ids = inputs.input_ids[inputs.input_ids != ROWS][None]
    with torch.no_grad():
        torch.testing.assert_close(
            model(inputs).logits[..., :ROWS], run.logits(ids, inputs.pixel_values), atol=2e-5, rtol=1e-5
        )


def test_what_is_no_prismatic_run_is_said_in_one_line(tmp_path):
    run = Run(tmp_path, ("dino", "siglip"), "fused-gelu-mlp", "llama")
    about = run.about["model"]
    for field, value, said in (
        ("vision_backbone_id", "in1k-vit-l", "has the vision_backbone_id 'in1k-vit-l'; known are clip-vit-b"),
        ("llm_backbone_id", "gpt-2", "has the llm_backbone_id 'gpt-2'; known are llama2-7b-pure"),
        ("arch_specifier", "resampler", "has a connector of kind 'resampler'; there are linear, gelu-mlp"),
        ("image_resize_strategy", "stretch", "resizes images by 'stretch'; known are letterbox"),
    ):
        (run.folder / "config.json").write_text(json.dumps({"model": {**about, field: value}}))
        with pytest.raises(VlmProbeError, match=said):
            vlm_probe.load(run.folder, device="cpu")
    run.write(llm_backbone=None)
    with pytest.raises(VlmProbeError, match="holds no llm_backbone; a run's last stage has both"):
        vlm_probe.load(run.folder, device="cpu")
    file = run.folder / "checkpoints" / "latest-checkpoint.pt"
    torch.save({"model": Path("/etc")}, file)
    with pytest.raises(VlmProbeError, match="is no file of tensors"):
        vlm_probe.load(run.folder, device="cpu")
    file.unlink()
    with pytest.raises(VlmProbeError, match=r"lacks checkpoints/latest-checkpoint\.pt"):
        vlm_probe.load(run.folder, device="cpu")


def test_encoders_of_two_grids_are_refused(tmp_path):
    run = Run(tmp_path, ("dino", "siglip"), "fused-gelu-mlp", "llama")
    other = timm_weights("siglip", 1)
    other["patch_embed.proj.weight"] = other["patch_embed.proj.weight"][..., :2, :2]
    other["pos_embed"] = torch.randn(1, 64, WIDTH["siglip"])
    vision = run.parts()["vision_backbone"] | {f"siglip_featurizer.{name}": value for name, value in other.items()}
    run.write(vision_backbone=vision)
    with pytest.raises(VlmProbeError, match="fuses encoders of 5 and 8 patches a side; they must be of one grid"):
        vlm_probe.load(run.folder, device="cpu")
