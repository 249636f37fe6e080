"""Image models of patches: ViT in NNX, in Linen and scanned in both, with its two kinds of head; MLP-Mixer."""

import jax
import jax.numpy as jnp
from flax import linen, nnx

from parity_tests.library.zoo._kind import floats, kind, make_linen, make_nnx

WIDTH = 8
IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)


def attention(rngs, width=WIDTH):
    return nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)


class MLP(nnx.Module):
    def __init__(self, width=WIDTH, *, rngs):
        self.fc1 = nnx.Linear(width, 2 * width, rngs=rngs)
        self.fc2 = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x):
        return self.fc2(nnx.gelu(self.fc1(x)))


class EncoderBlock(nnx.Module):
    """A transformer's block, normalised before each branch."""

    def __init__(self, *, rngs):
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = attention(rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.mlp = MLP(rngs=rngs)

    def __call__(self, x, mask=None):
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.mlp(self.norm2(x))


class MAPHead(nnx.Module):
    """A learned probe attends to the tokens."""

    def __init__(self, *, rngs):
        self.probe = nnx.Param(jnp.zeros((1, 1, WIDTH)))
        self.attention = attention(rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.mlp = MLP(rngs=rngs)

    def __call__(self, x):
        probe = jnp.broadcast_to(self.probe[...], (x.shape[0], 1, WIDTH))
        y = self.attention(probe, x, x)
        return (y + self.mlp(self.norm(y)))[:, 0]


class ViT(nnx.Module):
    """`blocks`: "list", "scanned" over stacked weights, or "scanned unbound", by their class.

    `head`: a class token or attention pooling.
    """

    def __init__(self, *, rngs, blocks="list", head="token"):
        self.unbound = blocks == "scanned unbound"
        self.patch_embed = nnx.Conv(3, WIDTH, (4, 4), 4, padding="VALID", rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, WIDTH))) if head == "token" else None
        self.pos_embed = nnx.Param(jnp.zeros((1, 17 if head == "token" else 16, WIDTH)))
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        if blocks == "list":
            self.blocks = nnx.List([EncoderBlock(rngs=rngs) for _ in range(3)])
        else:
            self.blocks = nnx.vmap(lambda rngs: EncoderBlock(rngs=rngs))(rngs.split(3))
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.pool = MAPHead(rngs=rngs) if head == "map" else None
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x):
        x = self.patch_embed(x)
        x = x.reshape(x.shape[0], -1, WIDTH)
        if self.cls_token is not None:
            x = jnp.concatenate([jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, WIDTH)), x], 1)
        x = self.dropout(x + self.pos_embed[...])
        if isinstance(self.blocks, nnx.List):
            for block in self.blocks:
                x = block(x)
        else:
            x = self.scanned(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.pool is None else self.pool(x))

    def scanned(self, x):
        if self.unbound:
            return nnx.scan(EncoderBlock.__call__, in_axes=(0, nnx.Carry, None), out_axes=nnx.Carry)(self.blocks, x)
        return nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)


class LinenMlpBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(WIDTH)(linen.gelu(linen.Dense(2 * WIDTH)(x)))


class LinenEncoderBlock(linen.Module):
    """Returns a pair, as a block that is scanned must."""

    @linen.compact
    def __call__(self, x, train):
        y = linen.LayerNorm()(x)
        x = x + linen.MultiHeadDotProductAttention(2)(y, y)
        y = LinenMlpBlock()(linen.LayerNorm()(x))
        return x + linen.Dropout(0.1, deterministic=not train)(y), None


class LinenUnscannedBlock(LinenEncoderBlock):
    @linen.compact
    def __call__(self, x, train):
        return super().__call__(x, train)[0]


class LinenViT(linen.Module):
    scanned: bool
    remat: bool = False

    @linen.compact
    def __call__(self, x, train=True):
        x = linen.Conv(WIDTH, (4, 4), 4, padding="VALID", name="embedding")(x)
        x = x.reshape(x.shape[0], -1, WIDTH)
        token = self.param("cls", linen.initializers.zeros, (1, 1, WIDTH))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, WIDTH)), x], 1)
        x = x + self.param("pos_embedding", linen.initializers.normal(0.02), (1, 17, WIDTH))
        if self.scanned:
            block = linen.remat(LinenEncoderBlock, static_argnums=(2,)) if self.remat else LinenEncoderBlock
            blocks = linen.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=linen.broadcast,
                length=3,
            )
            x, _ = blocks(name="encoderblock")(x, train)
        else:
            for i in range(3):
                x = LinenUnscannedBlock(name=f"encoderblock_{i}")(x, train)
        return linen.Dense(10, name="head")(linen.LayerNorm(name="encoder_norm")(x)[:, 0])


class MixerBlock(nnx.Module):
    def __init__(self, *, rngs):
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.token_mixing = MLP(16, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.channel_mixing = MLP(WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.token_mixing(self.norm1(x).swapaxes(1, 2)).swapaxes(1, 2)
        return x + self.channel_mixing(self.norm2(x))


class Mixer(nnx.Module):
    def __init__(self, *, rngs):
        self.stem = nnx.Conv(3, WIDTH, (4, 4), 4, padding="VALID", rngs=rngs)
        self.blocks = nnx.Sequential(*[MixerBlock(rngs=rngs) for _ in range(3)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x).reshape(x.shape[0], -1, WIDTH)
        return self.head(self.norm(self.blocks(x)).mean(1))


PIXELS = floats(16, 16, 3)
BLOCKS = "blocks.0 blocks.1 blocks.2"
INSIDE = (
    "blocks.0.norm1 blocks.0.attention.query blocks.0.attention.key blocks.0.attention.value blocks.0.attention.out "
    "blocks.1.attention blocks.2.norm2 blocks.2.mlp blocks.2.mlp.fc1"
)
LINEN_INSIDE = (
    "encoderblock.0.LayerNorm_0 encoderblock.0.MultiHeadDotProductAttention_0.query encoderblock.1.LinenMlpBlock_0 "
    "encoderblock.1.MultiHeadDotProductAttention_0.value encoderblock.2.LinenMlpBlock_0.Dense_1"
)
KINDS = (
    kind("ViT", make_nnx(ViT), PIXELS, BLOCKS, f"patch_embed dropout {BLOCKS} norm head", INSIDE),
    kind(
        "ViT, scanned",
        make_nnx(ViT, blocks="scanned"),
        PIXELS,
        BLOCKS,
        f"patch_embed dropout {BLOCKS} norm head",
        INSIDE,
    ),
    kind(
        "ViT with attention pooling",
        make_nnx(ViT, head="map"),
        PIXELS,
        BLOCKS,
        f"patch_embed {BLOCKS} norm pool.attention pool head",
        f"{INSIDE} pool.attention.key pool.attention.value pool.attention.query pool.norm pool.mlp",
    ),
    kind(
        "ViT, scanned by the class",
        make_nnx(ViT, blocks="scanned unbound"),
        PIXELS,
        BLOCKS,
        f"patch_embed dropout {BLOCKS} norm head",
        INSIDE,
    ),
    kind(
        "ViT in Linen",
        make_linen(LinenViT(scanned=False), IMAGE, train=False),
        PIXELS,
        "encoderblock_0 encoderblock_1 encoderblock_2",
        "embedding encoderblock_0 encoderblock_1 encoderblock_2 encoder_norm head",
        LINEN_INSIDE.replace("encoderblock.", "encoderblock_"),
        eval={"train": False},
    ),
    *(
        kind(
            name,
            make_linen(LinenViT(scanned=True, remat=remat), IMAGE, train=False),
            PIXELS,
            "encoderblock.0 encoderblock.1 encoderblock.2",
            "embedding encoderblock.0 encoderblock.1 encoderblock.2 encoder_norm head",
            LINEN_INSIDE,
            eval={"train": False},
        )
        for name, remat in (("ViT in Linen, scanned", False), ("ViT in Linen, scanned and rematerialised", True))
    ),
    kind(
        "MLP-Mixer",
        make_nnx(Mixer),
        PIXELS,
        "blocks.layers.0 blocks.layers.1 blocks.layers.2",
        "stem blocks.layers.0 blocks.layers.1 blocks.layers.2 blocks norm head",
        "blocks.layers.0.norm1 blocks.layers.0.token_mixing blocks.layers.1.channel_mixing.fc1 blocks.layers.2.norm2",
    ),
)
