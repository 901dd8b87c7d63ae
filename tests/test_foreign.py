"""Networks of other packages by name: their arguments, their outputs, and refusals."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from hpcsamp import models
from hpcsamp.errors import UsageError
from hpcsamp.models import Options, factory

IMAGE = (3, 32, 32)
SMALL = {
    "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 64,
}  # fmt: skip
VIT = {"image_size": "@height", "patch_size": 8, "num_channels": "@channels", **SMALL}
RESNET, TIMM, LSTM = "torchvision.models:resnet18", "timm:create_model", "torch.nn:LSTM"
HF, BERT = "transformers:ViTForImageClassification", "transformers:BertForSequenceClassification"


def made(name, arguments=None, shape=IMAGE, outputs=10, ids=False, notes=None, **options):
    return models.build(
        name, arguments or {}, shape, outputs, 1, ids=ids, notes=notes, options=Options(**options)
    )


class Pair(nn.Module):
    """Returns a tuple in a dictionary."""

    def __init__(self, features: int, width: int = 4):
        super().__init__()
        self.one, self.two = nn.Linear(features, width), nn.Linear(features, 3)

    def forward(self, x):
        return {"first": self.one(x), "rest": (self.two(x), None)}


class Two(nn.Module):
    """Takes an image and ids by name."""

    def __init__(self, outputs, channels, words):
        super().__init__()
        self.image, self.words = nn.Conv2d(channels, outputs, 3), nn.Embedding(5, outputs)
        assert words == 4

    def forward(self, ids, image):
        return self.image(image).mean((-1, -2)) + self.words(ids).mean(1)


class NeedsValues(nn.Module):
    """Reads values of its weights on construction and of its inputs when called."""

    def __init__(self, outputs):
        super().__init__()
        self.layer = nn.LazyLinear(outputs)
        self.scale = float(torch.ones(3).sum())

    def forward(self, x):
        return self.layer(x.flatten(1)) * (self.scale if float(x.sum()) >= 0 else 1.0)


def ready_made():
    return {"no": "network"}


INSTANCE = nn.Linear(3, 2)

WORK = [
    (RESNET, {}, {}, (3, 32, 32), 10),
    (RESNET, {"num_classes": "@outputs"}, {}, (3, 32, 32), 7),
    (RESNET, {}, {"head": "fc"}, (3, 32, 32), 7),
    ("torchvision.models:mobilenet_v3_small", {}, {"head": "classifier"}, IMAGE, 4),
    ("torchvision.models:squeezenet1_1", {}, {"head": "classifier"}, IMAGE, 4),  # a convolution
    ("torchvision.models:regnet_y_400mf", {}, {}, IMAGE, 3),  # cannot be made without values
    (TIMM, {"model_name": "convnext_atto"}, {}, IMAGE, 5),
    (TIMM, {"model_name": "vit_tiny_patch16_224", "img_size": "@height", "patch_size": 8,
            "act_layer": "@torch.nn:ReLU"}, {}, IMAGE, 5),
    (HF, VIT, {}, IMAGE, 5),
    ("transformers:ViTModel", VIT, {"output": "pooler_output", "head": "pooler.dense"}, IMAGE, 5),
    (LSTM, {"input_size": 4, "hidden_size": 2, "batch_first": True}, {"output": "0"}, (7, 4), 14),
    ("torch.nn:Linear", {"in_features": "@features"}, {}, (6,), 3),
    (f"{__name__}:Pair", {"features": "@features"}, {"output": "rest.0"}, (6,), 3),
    (f"{__name__}:NeedsValues", {}, {}, (2, 3), 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "options", "shape", "outputs"), WORK)
def test_networks_of_other_packages_by_name(name, arguments, options, shape, outputs):
    network = made(name, arguments, shape, outputs, **options).eval()
    y = network(torch.zeros(2, *shape))
    assert type(y) is torch.Tensor
    assert y[0].numel() == outputs
    again = made(name, arguments, shape, outputs, **options)
    for (n, p), (m, q) in zip(network.named_parameters(), again.named_parameters(), strict=True):
        assert n == m
        assert torch.equal(p, q)  # from the seed


def test_ids_go_in_as_ids():
    network = made(BERT, SMALL, (7,), 3, ids=True).eval()
    assert network(torch.ones(2, 7, dtype=torch.int64)).shape == (2, 3)


def test_labels_of_pixels_ask_for_a_channel_for_each_class():
    name, notes = "torchvision.models.segmentation:lraspp_mobilenet_v3_large", {}
    places, seen = 32 * 32, {"weights_backbone": None}
    network = models.build(name, seen, IMAGE, 5 * places, 1, classes=5, notes=notes).eval()
    assert network(torch.zeros(2, *IMAGE)).shape == (2, 5, 32, 32)
    assert [n.split(":")[0] for n in notes] == ["model.num_classes = 5"]
    with pytest.raises(UsageError, match=r"\(B, 5, \.\.\.\) with 1024 pixels"):
        models.build(name, {**seen, "num_classes": 6}, IMAGE, 5 * places, 1, classes=5)


def test_several_inputs_go_in_by_name():
    shapes, kinds = {"image": (3, 8, 8), "ids": (4,)}, {"image": "numbers", "ids": "ids"}
    arguments = {"channels": "@image.channels", "words": "@ids.length"}

    def build(**others):
        wanted = arguments | others
        return models.build(f"{__name__}:Two", wanted, shapes, 5, 1, kinds=kinds)

    y = build()(image=torch.zeros(2, 3, 8, 8), ids=torch.zeros(2, 4, dtype=torch.int64))
    assert y.shape == (2, 5)
    for wrong, words in {"@channels": "@image.channels", "@ids.height": "items have"}.items():
        with pytest.raises(UsageError, match=r"model.channels = ") as e:
            build(channels=wrong)
        assert words in str(e.value)
    kinds["ids"] = "numbers"
    with pytest.raises(UsageError, match=r"words, a Embedding.*indices"):
        build(channels=3)


def test_the_number_of_outputs_is_guessed_where_nobody_says_it():
    for name, arguments, shape, ids, guess in [
        (RESNET, {}, IMAGE, False, "num_classes"),  # behind **kwargs
        (HF, VIT, IMAGE, False, "num_labels"),  # of its configuration
        ("torch.nn:LazyLinear", {}, (6,), False, "out_features"),
    ]:
        notes: dict[str, None] = {}
        made(name, arguments, shape, 6, ids, notes)
        assert [n.split(":")[0] for n in notes] == [f"model.{guess} = 6"]
    notes = {}
    made(RESNET, {"num_classes": "@outputs"}, notes=notes)
    made(RESNET, notes=notes, head="fc")
    assert notes == {}


def test_a_head_is_drawn_from_the_seed_and_the_rest_is_as_it_was():
    one, other = (made(RESNET, head="fc") for _ in range(2))
    plain = made(RESNET, outputs=1000)  # which draws as much before
    assert torch.equal(one.fc.weight, other.fc.weight)
    assert one.fc.weight.shape == (10, 512)
    assert torch.equal(one.conv1.weight, plain.conv1.weight)
    assert float(one.fc.weight.detach().std()) == pytest.approx(1 / (3 * 512) ** 0.5, rel=0.05)
    member = models.build(RESNET, {}, IMAGE, 10, 1, 3, options=Options(head="fc"))
    assert not torch.equal(member.fc.weight, one.fc.weight)


def test_frozen_parameters_are_those_that_patterns_fit():
    network = made(RESNET)
    models.freeze(network, ["layer[12].*", "conv1.weight"])
    frozen = {n.split(".")[0] for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"layer1", "layer2", "conv1"}
    assert all(p.requires_grad for n, p in network.named_parameters() if n.startswith("layer3"))
    models.freeze(network, lambda name: name == "fc.bias")
    assert not network.fc.bias.requires_grad
    assert network.fc.weight.requires_grad


REFUSED = [
    (RESNET, {"num_classes": 7}, {}, IMAGE, ["(B, 7)", "(B, 3, 32, 32)", "(B, 10)", 'head = "fc"']),
    (RESNET, {"num_clases": 10}, {}, IMAGE, ["num_clases", "did you mean 'num_classes'"]),
    (RESNET, {"progres": True}, {}, IMAGE, ["model.progres", "did you mean 'progress'"]),
    (RESNET, {}, {}, (32, 32, 3), ["conv1", "(32, 32, 3)", "channels first", "(3, 32, 32)"]),
    (RESNET, {}, {}, (28, 28), ["(28, 28)", "(1, 28, 28)"]),
    (HF, VIT, {}, (32, 32, 3), ["@height", "(32, 32, 3)", "(3, 32, 32)"]),
    (RESNET, {}, {"head": "fx"}, IMAGE, ["model.head = 'fx'", "fc (512 -> 1000)"]),
    (RESNET, {}, {"head": "bn1"}, IMAGE, ["BatchNorm2d", "fc (512 -> 1000)"]),
    (RESNET, {}, {"output": "logits"}, IMAGE, ["single tensor", "model.output = 'logits'"]),
    ("torchvision.models:resnet19", {}, {}, IMAGE, ["resnet19", "did you mean 'resnet18'"]),
    (TIMM, {"model_name": "no_such"}, {}, IMAGE, ["no_such"]),
    (TIMM, {"model_name": "vit_tiny_patch16_224", "img_size": "@hight"}, {}, IMAGE,
     ["model.img_size = '@hight'", "did you mean '@height'"]),
    (TIMM, {"model_name": "vit_tiny_patch16_224", "act_layer": "@torch.nn:Rely"}, {}, IMAGE,
     ["@torch.nn:Rely", "did you mean 'ReLU'"]),
    (HF, {**VIT, "hiden_size": 3}, {}, IMAGE, ["hiden_size", "did you mean 'hidden_size'"]),
    (HF, {**VIT, "hidden_size": "wide"}, {}, IMAGE, ["hidden_size", "wide"]),
    (HF, SMALL, {}, IMAGE, ["vit.embeddings", "(32*32)", "(224*224)"]),
    ("transformers:ViTModel", VIT, {}, IMAGE,
     ["last_hidden_state (2, 17, 48)", "pooler_output (2, 48)", "model.output"]),
    ("transformers:ViTModel", VIT, {"output": "poler_output"}, IMAGE,
     ["no 'poler_output'", "did you mean 'pooler_output'"]),
    (BERT, SMALL, {}, (7,), ["numbers", "--inputs ids", "word_embeddings"]),
    (LSTM, {"input_size": 4, "hidden_size": 5}, {}, (7, 4), ["0 (2, 7, 5)", "1.0"]),
    (LSTM, {"input_size": 4, "hidden_size": 5, "batch_first": True}, {"output": "1.0"}, (7, 4),
     ["(1, 2, 5)", "first axis"]),
    ("torch.nn:Linear", {}, {}, (4,), ["in_features"]),
    ("torch.nn:Linear", {"in_features": "@features"}, {}, (3, 2), ["(3, 2)", "shapes"]),
    (f"{__name__}:ready_made", {}, {}, (4,), ["makes a dict"]),
    (f"{__name__}:INSTANCE", {}, {}, (3,), ["seed", "class or function"]),
    ("math:pi", {}, {}, (4,), ["not a class or function"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "options", "shape", "words"), REFUSED)
def test_what_does_not_fit_is_one_line_with_both_shapes(name, arguments, options, shape, words):
    with pytest.raises(UsageError) as e:
        made(name, arguments, shape, **options)
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value), str(e.value)


def test_patterns_that_fit_nothing_are_answered_with_near_names():
    network = made(RESNET)
    for pattern, words in {
        "layr1.*": "choose from conv1, bn1",
        "layer1": "did you mean 'layer1.*'",
        "layer1.0.conv1.weigth": "did you mean 'layer1.0.conv1.weight'",
    }.items():
        with pytest.raises(UsageError, match="matches no parameter") as e:
            models.freeze(network, [pattern])
        assert words in str(e.value), str(e.value)


def test_an_argument_called_like_an_option_is_the_classs(tmp_path):
    class Own(nn.Module):
        def __init__(self, outputs, head="mlp", weights=None):
            super().__init__()

    options, arguments = Options.split({"head": "linear", "weights": "DEFAULT"}, Own)
    assert options == Options()
    assert arguments == {"head": "linear", "weights": "DEFAULT"}
    options, arguments = Options.split({"weights": "a/b.pt", "freeze": ["x"]}, Own)
    assert (options.weights, options.freeze, arguments) == ("a/b.pt", ["x"], {})
    for wrong in ({"head": 3}, {"freeze": "a"}, {"weights_strict": "no"}, {"output": True}):
        with pytest.raises(UsageError, match=f"model.{next(iter(wrong))} = "):
            Options.split(wrong, nn.Linear)


def test_a_configuration_with_a_network_of_timm_is_counted_and_trained(commands, tmp_path):
    sizes = ["--preset=small", "--set=data.path=synthetic", "--set=data.synthetic.items=100"]
    done = commands(
        1,
        ["models", "timm-cifar10", *sizes, "--ranks=2", f"--json={tmp_path}/m.json"],
        ["plan", "timm-cifar10", "--gpus-per-node=2"],
        ["train", "timm-cifar10", *sizes, "--data=synthetic", "--output", tmp_path / "run"],
        ["models", "torchvision.models:resnet1*"],
        ["models"],
        cwd=tmp_path,
        timeout=120,
    )
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "m.json").read_text())
    assert 10_000 < found["weights"] < found["trained"] < 2 * found["weights"]
    assert "model.num_classes = 10" in done.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 < summary["metrics"]["nll"] < 4
    for word in ("torchvision.models:resnet18", "timm:create_model", "progress=True"):
        assert word in done.out


def test_guessed_names_are_arguments_that_the_class_has():
    assert factory.guesses(nn.Linear) == ["out_features"]
    assert factory.guesses(nn.Flatten) == []
