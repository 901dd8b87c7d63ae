"""Small networks of other packages in float64: torch, torchvision, transformers, timm, torch_blue.

Each is a function that returns the module and a batch of inputs for it. All have three outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations

ITEMS, OUTPUTS = 8, 3
Made = tuple[nn.Module, Tensor]
NETWORKS: dict[str, Callable[[], Made]] = {}


def network(function: Callable[[], Made]) -> Callable[[], Made]:
    NETWORKS[function.__name__] = function
    return function


def make(name: str, seed: int = 1) -> Made:
    """A network with fresh parameters drawn from a fixed seed, and its inputs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return NETWORKS[name]()
    finally:
        torch.set_default_dtype(before)


def images(size: int, channels: int = 3) -> Tensor:
    return torch.randn(ITEMS, channels, size, size)


def series(length: int = 5, width: int = 4) -> Tensor:
    return torch.randn(ITEMS, length, width)


def tokens(most: int = 11, length: int = 6) -> Tensor:
    return torch.randint(1, most, (ITEMS, length))


class Last(nn.Module):
    """A recurrent network and a head on its last state."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


class Pooled(nn.Module):
    """A projection, a body over the tokens, and a head on their mean."""

    def __init__(self, before: nn.Module, body: nn.Module, width: int, batch: int = 0) -> None:
        super().__init__()
        self.before, self.body, self.head = before, body, nn.Linear(width, OUTPUTS)
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        y = self.body(y.transpose(0, 1)).transpose(0, 1) if self.batch else self.body(y)
        return self.head(y.mean(1))


class Attend(nn.Module):
    def __init__(self, width: int, **more) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True, **more)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x)[0]


class Logits(nn.Module):
    """The logits of a network of transformers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).logits


# torchvision -------------------------------------------------------------------------------------


@network
def resnet18() -> Made:
    from torchvision.models import resnet18

    made = resnet18(num_classes=OUTPUTS)  # its first half: the second is more of the same
    made.layer3, made.layer4, made.fc = nn.Identity(), nn.Identity(), nn.Linear(128, OUTPUTS)
    return made, images(16)


@network
def mobilenet_v3() -> Made:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    setting = [
        InvertedResidualConfig(8, 3, 16, 8, True, "RE", 2, 1, 0.5),
        InvertedResidualConfig(8, 5, 16, 8, False, "HS", 1, 1, 0.5),
    ]
    return MobileNetV3(setting, 16, num_classes=OUTPUTS), images(16)


@network
def vit() -> Made:
    from torchvision.models import VisionTransformer

    made = VisionTransformer(16, 8, 2, 2, 16, 24, dropout=0.1, attention_dropout=0.1,
                             num_classes=OUTPUTS)  # fmt: skip
    nn.init.normal_(made.heads.head.weight)
    return made, images(16)


@network
def swin() -> Made:
    from torchvision.models import SwinTransformer

    made = SwinTransformer([2, 2], 8, [2, 1], [2, 2], [2, 2], stochastic_depth_prob=0.3,
                           num_classes=OUTPUTS)  # fmt: skip
    return made, images(16)


# torch -------------------------------------------------------------------------------------------


@network
def lstm() -> Made:
    return Last(nn.LSTM(4, 6, num_layers=2, dropout=0.3, batch_first=True), 6), series()


@network
def gru() -> Made:
    return Last(nn.GRU(4, 6, bidirectional=True, batch_first=True), 12), series()


@network
def encoder() -> Made:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.2, batch_first=True)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Pooled(nn.Linear(4, 8), body, 8), series()


@network
def encoder_of_sequences_first() -> Made:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.2)
    return Pooled(nn.Linear(4, 8), layer, 8, batch=1), series()


@network
def attention() -> Made:
    return Pooled(nn.Linear(4, 8), Attend(8), 8), series()


@network
def attention_with_dropout() -> Made:
    return Pooled(nn.Linear(4, 8), Attend(8, dropout=0.3), 8), series()


@network
def embeddings() -> Made:
    return Pooled(nn.Embedding(11, 8, padding_idx=0), nn.Tanh(), 8), tokens()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.back = nn.Embedding(OUTPUTS, 6), nn.Linear(6, OUTPUTS, bias=False)
        self.back.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.back(torch.tanh(self.words(x)).sum(1))


@network
def tied_weights() -> Made:
    return Tied(), tokens(OUTPUTS)


@network
def weight_norm() -> Made:
    wrap = parametrizations.weight_norm
    return nn.Sequential(wrap(nn.Linear(4, 6)), nn.Tanh(), wrap(nn.Linear(6, OUTPUTS))), series()[
        :, 0
    ]


@network
def spectral_norm() -> Made:
    wrap = parametrizations.spectral_norm
    return nn.Sequential(wrap(nn.Linear(4, 6)), nn.Tanh(), wrap(nn.Linear(6, OUTPUTS))), series()[
        :, 0
    ]


@network
def spectral_norm_by_hooks() -> Made:
    wrap = nn.utils.spectral_norm
    return nn.Sequential(wrap(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, OUTPUTS)), series()[:, 0]


@network
def orthogonal() -> Made:
    wrap = parametrizations.orthogonal
    return nn.Sequential(wrap(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, OUTPUTS)), series()[:, 0]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
                                  nn.Dropout2d(0.3))  # fmt: skip
        self.up, self.last = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, OUTPUTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        return self.last(torch.cat([y, self.up(self.deep(y))], 1)).mean((2, 3))


@network
def u_net() -> Made:
    return UNet(), images(8)


@network
def frozen_body() -> Made:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    for p in body.parameters():
        p.requires_grad_(False)
    body.eval()
    return nn.Sequential(body, nn.Linear(4 * 36, OUTPUTS)), images(8)


@network
def frozen_weights_and_moving_statistics() -> Made:
    made, x = frozen_body()
    return made.train(), x


class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(4, 8))
        self.head = nn.Linear(16, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.frequencies
        return self.head(torch.cat([y.sin(), y.cos()], -1))


@network
def fourier_features() -> Made:
    return Fourier(), series()[:, 0]


class Spectral(nn.Module):
    """A Fourier layer with real and imaginary parts as parameters of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(4, 6), nn.Linear(6, OUTPUTS)
        self.weight = nn.Parameter(torch.randn(3, 6, 6, 2) / 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lift(x)
        modes = torch.fft.rfft(y, dim=1)
        mixed = torch.einsum("bmi,mio->bmo", modes, torch.view_as_complex(self.weight))
        return self.head(F.gelu(y + torch.fft.irfft(mixed, n=x.shape[1], dim=1)).mean(1))


@network
def fourier_operator() -> Made:
    return Spectral(), series()


class Complex(Spectral):
    """The same layer with a complex parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.view_as_complex(torch.randn(3, 6, 6, 2) / 6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.lift(x)
        mixed = torch.einsum("bmi,mio->bmo", torch.fft.rfft(y, dim=1), self.weight)
        return self.head(F.gelu(y + torch.fft.irfft(mixed, n=x.shape[1], dim=1)).mean(1))


@network
def complex_weights() -> Made:
    return Complex(), series()


class Running(nn.Module):
    """Scales by a running mean of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, OUTPUTS)
        self.register_buffer("square", torch.ones(6))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        scale = self.square.rsqrt()
        if self.training:
            with torch.no_grad():
                self.square.mul_(0.9).add_(0.1 * y.square().mean(0))
                self.count += 1
        return self.last(torch.tanh(y * scale))


@network
def running_buffer() -> Made:
    return Running(), series()[:, 0]


@network
def batch_norm_without_statistics() -> Made:
    made = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Tanh(),
                         nn.Linear(6, OUTPUTS))  # fmt: skip
    return made, series()[:, 0]


@network
def instance_norm() -> Made:
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.RReLU(),
                         nn.Flatten(), nn.Linear(4 * 36, OUTPUTS))  # fmt: skip
    return made, images(8)


class Noisy(nn.Module):
    """Gaussian noise on the features, as regularisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.training:
            y = y + 0.1 * torch.randn_like(y) * math.sqrt(2)
        return self.last(F.dropout(torch.tanh(y), 0.2, self.training))


@network
def noise_of_its_own() -> Made:
    return Noisy(), series()[:, 0]


@network
def mixture_of_torch_blue() -> Made:
    from torch_blue import vi

    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), vi.VILinear(6, OUTPUTS)), series()[:, 0]


@network
def torch_blue_layers() -> Made:
    from torch_blue import vi

    return vi.VISequential(vi.VILinear(4, 6), nn.Tanh(), vi.VILinear(6, OUTPUTS)), series()[:, 0]


# transformers ------------------------------------------------------------------------------------


@network
def hugging_face_vit() -> Made:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=8,
                       intermediate_size=12, patch_size=4, num_labels=OUTPUTS,
                       hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)  # fmt: skip
    return Logits(ViTForImageClassification(config)), images(8)


@network
def hugging_face_bert() -> Made:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=12, max_position_embeddings=8,
                        num_labels=OUTPUTS)  # fmt: skip
    return Logits(BertForSequenceClassification(config)), tokens()


# timm: a small network of each of its families ---------------------------------------------------


def of_timm(name: str, size: int = 32, **more) -> None:
    def build() -> Made:
        import timm

        return timm.create_model(name, num_classes=OUTPUTS, **more), images(size)

    build.__name__ = f"timm_{name.removeprefix('test_')}"
    network(build)


of_timm("test_byobnet", drop_rate=0.2)
of_timm("test_coatnet", img_size=64, size=64)
of_timm("test_convnext", drop_path_rate=0.3)
of_timm("test_efficientnet", drop_path_rate=0.3)
of_timm("test_efficientnet_evos")
of_timm("test_efficientnet_gn")
of_timm("test_mambaout")
of_timm("test_nfnet")
of_timm("test_resnet")
# blocks of a transformer are alike: three of their nine are as good a test
of_timm("test_vit", img_size=32, depth=3, drop_rate=0.1)
of_timm("test_vit3", img_size=32, depth=3, attn_drop_rate=0.2)
of_timm("test_vit_relpos", img_size=32, depth=3, proj_drop_rate=0.1)
