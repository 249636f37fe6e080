"""Small networks of PyTorch and their ports to Flax, as a user may write them; a port can have one mistake in it."""

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F
from flax import linen, nnx
from torch import nn

CLASSES = 5


class TorchBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(x + self.bn2(self.conv2(h)))


class TorchConvNet(nn.Module):
    """For images of 3 x 8 x 8."""

    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(True))
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.blocks = nn.Sequential(TorchBlock(width), TorchBlock(width))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(width * 4, CLASSES)

    def forward(self, x):
        x = self.blocks(self.pool(self.stem(x)))
        return self.fc(torch.flatten(self.dropout(x), 1))


class Block(nnx.Module):
    def __init__(self, width, *, bug="", rngs):
        same = ((1, 1), (1, 1))
        self.conv1 = nnx.Conv(width, width, (3, 3), padding=same, use_bias=bug != "missing bias", rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, momentum=0.99 if bug == "momentum" else 0.9, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), padding=same, feature_group_count=2, use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(width, epsilon=1e-6 if bug == "epsilon" else 1e-5, momentum=0.9, rngs=rngs)
        self.bug = bug

    def __call__(self, x):
        h = nnx.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        x = jax.lax.stop_gradient(x) if self.bug == "gradient stopped" else x
        return x + nnx.relu(h) if self.bug == "ReLU before the sum" else nnx.relu(x + h)


class ConvNet(nnx.Module):
    """The port: what `bug` names is wrong, in the second block if it is one's."""

    def __init__(self, width=4, *, bug="", rngs):
        padding = "SAME" if bug == "padding" else ((1, 1), (1, 1))
        conv = nnx.Conv(3, width, (3, 3), strides=(2, 2), padding=padding, rngs=rngs)
        self.stem = nnx.Sequential(conv, nnx.BatchNorm(width, momentum=0.9, rngs=rngs), nnx.relu)
        self.blocks = nnx.List([Block(width, rngs=rngs), Block(width, bug=bug, rngs=rngs)])
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.fc = nnx.Linear(width * 4, CLASSES, dtype=jnp.float32, rngs=rngs)  # the copy is in float64 all the same
        self.bug = bug

    def __call__(self, image):
        x = self.stem(image)
        outside = self.bug != "pool without padding"
        x = nnx.avg_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)), count_include_pad=outside)
        for block in self.blocks:
            x = block(x)
        x = self.dropout(x, deterministic=False if self.bug == "dropout left on" else None)
        x = x if self.bug == "flatten" else jnp.moveaxis(x, -1, 1)
        return self.fc(x.reshape(len(x), -1))


class TorchLayer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        h = self.norm1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TorchTransformer(nn.Module):
    """For images of 3 x 8 x 8: four patches and a class token."""

    def __init__(self, width=4):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, width))
        self.layers = nn.ModuleList([TorchLayer(width, 2) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class Swapped(nnx.MultiHeadAttention):
    """Its queries ask as the keys should."""

    def __call__(self, x, **kwargs):
        self.query, self.key = self.key, self.query
        try:
            return super().__call__(x, **kwargs)
        finally:
            self.query, self.key = self.key, self.query


class Layer(nnx.Module):
    def __init__(self, width, heads, *, bug="", rngs):
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-6 if bug == "epsilon" else 1e-5, rngs=rngs)
        kind = Swapped if bug == "query and key" else nnx.MultiHeadAttention
        self.attn = kind(heads, width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.fc1 = nnx.Linear(width, 2 * width, rngs=rngs)
        self.fc2 = nnx.Linear(2 * width, width, rngs=rngs)
        self.bug = bug

    def __call__(self, x):
        x = self.norm1(x + self.attn(x)) if self.bug == "norm after" else x + self.attn(self.norm1(x))
        return x + self.fc2(nnx.gelu(self.fc1(self.norm2(x)), approximate=self.bug == "GELU"))


class Transformer(nnx.Module):
    """The port: what `bug` names is wrong in the second layer."""

    def __init__(self, width=4, *, bug="", rngs):
        self.patch_embed = nnx.Conv(3, width, (4, 4), strides=(4, 4), padding="VALID", rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, width)))
        self.pos_embed = nnx.Param(jnp.zeros((1, 5, width)))
        self.encoder = nnx.List([Layer(width, 2, rngs=rngs), Layer(width, 2, bug=bug, rngs=rngs)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, image):
        x = self.patch_embed(image)
        x = x.reshape(len(x), -1, x.shape[-1])
        first = jnp.broadcast_to(self.cls_token[...], (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([first, x], 1) + jnp.tile(self.pos_embed[...], (len(x), 1, 1))
        for layer in self.encoder:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class TorchOthers(nn.Module):
    """For tokens [batch, 6]: what the other two have not. It puts out a sequence of vectors."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.qkv = nn.Linear(8, 24)
        self.conv = nn.Conv1d(8, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.act = nn.PReLU()
        self.up = nn.ConvTranspose1d(4, 3, 2, stride=2)

    def forward(self, tokens):
        q, k, v = self.qkv(self.embed(tokens)).chunk(3, -1)
        h = self.act(self.norm(self.conv((torch.tanh(q * k) + v).transpose(1, 2))))
        return self.up(self.act(h))


class Others(nnx.Module):
    """The port: what is one layer there is three here."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 8, rngs=rngs)
        self.q, self.k, self.v = (nnx.Linear(8, 8, rngs=rngs) for _ in range(3))
        self.conv = nnx.Conv(8, 4, (3,), padding=(1,), rngs=rngs)
        self.norm = nnx.GroupNorm(4, num_groups=2, epsilon=1e-5, rngs=rngs)
        self.act = nnx.PReLU()
        self.up = nnx.ConvTranspose(4, 3, (2,), strides=(2,), padding="VALID", rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        h = self.conv(jnp.tanh(self.q(x) * self.k(x)) + self.v(x))
        return self.up(self.act(self.act(self.norm(h))))


class LinenNet(linen.Module):
    """The port of `TorchNet` to Linen."""

    epsilon: float = 1e-5

    @linen.compact
    def __call__(self, x, train=False):
        x = linen.Conv(4, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=self.epsilon)(x)
        return linen.Dense(CLASSES)(linen.relu(x).mean((1, 2)))


class TorchNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


# The user's map of the transformer; the convolutional network needs none.
NAMES = {r"layers": "encoder", r"mlp\.0": "fc1", r"mlp\.2": "fc2"}


def original(kind, seed=0):
    """A PyTorch network, none of its arrays at its initial zeros or ones, in evaluation."""
    torch.manual_seed(seed)
    model = kind()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.ndim == 1:
                value.uniform_(0.5, 1.5)
    return model.eval()


def port(kind, bug=""):
    return kind(bug=bug, rngs=nnx.Rngs(1))
