"""Language models: encoders of text, a decoder alone, an encoder with a decoder."""

import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from parity_tests.library.zoo._kind import floats, kind, make_linen, make_nnx, tokens
from parity_tests.library.zoo.vision import BLOCKS, INSIDE, MLP, WIDTH, EncoderBlock, attention

LENGTH, WORDS = 8, 11


class Embeddings(nnx.Module):
    def __init__(self, *, rngs):
        self.word = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.position = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, ids):
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
        return self.norm(self.word(ids) + self.position(positions))


class PostNormBlock(nnx.Module):
    """A transformer's block, normalised after each branch is added."""

    def __init__(self, *, rngs):
        self.attention = attention(rngs)
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.mlp = MLP(rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, x, mask):
        x = self.norm1(x + self.attention(x, mask=mask))
        return self.norm2(x + self.mlp(x))


class Bert(nnx.Module):
    """`mask`: "none", "argument", or "padding", which is where a token is 0; `tied`: one block runs three times."""

    def __init__(self, mask, *, rngs, tied=False):
        self.mask = mask
        self.embeddings = Embeddings(rngs=rngs)
        self.layers = nnx.List([PostNormBlock(rngs=rngs) for _ in range(1 if tied else 3)])
        self.pooler = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.classifier = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, ids, attention_mask=None):
        if self.mask == "padding":
            attention_mask = ids != 0
        mask = None if attention_mask is None else attention_mask[:, None, None]
        x = self.embeddings(ids)
        for i in range(3):
            x = self.layers[i % len(self.layers)](x, mask)
        return self.classifier(jnp.tanh(self.pooler(x[:, 0])))


class LinenBlock(linen.Module):
    def setup(self):
        self.norm1, self.norm2 = linen.LayerNorm(), linen.LayerNorm()
        self.attention = linen.MultiHeadDotProductAttention(2)
        self.fc1, self.fc2 = linen.Dense(2 * WIDTH), linen.Dense(WIDTH)

    def __call__(self, x, mask):
        x = self.norm1(x + self.attention(x, mask=mask))
        return self.norm2(x + self.fc2(linen.gelu(self.fc1(x))))


class LinenBert(linen.Module):
    """BERT with a mask in Linen, in `setup`."""

    def setup(self):
        self.embed = linen.Embed(WORDS, WIDTH)
        self.layers = [LinenBlock() for _ in range(3)]
        self.pooler, self.classifier = linen.Dense(WIDTH), linen.Dense(3)

    def __call__(self, ids, attention_mask):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, attention_mask[:, None, None])
        return self.classifier(jnp.tanh(self.pooler(x[:, 0])))


class EmbeddedText(nnx.Module):
    """An encoder of text that is given as vectors."""

    def __init__(self, *, rngs):
        self.project = nnx.Linear(6, WIDTH, rngs=rngs)
        self.position = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([EncoderBlock(rngs=rngs) for _ in range(3)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x):
        x = self.project(x) + self.position(jnp.arange(x.shape[1]))[None]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class DecoderOnly(nnx.Module):
    def __init__(self, *, rngs):
        self.wte = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.wpe = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([EncoderBlock(rngs=rngs) for _ in range(3)])
        self.ln_f = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, ids):
        x = self.wte(ids) + self.wpe(jnp.arange(ids.shape[1]))[None]
        mask = nnx.make_causal_mask(ids)  # of the ids it reads the shape alone
        for block in self.blocks:
            x = block(x, mask)
        return self.wte.attend(self.ln_f(x))


class BiasedAttention(nnx.Module):
    """T5's attention: no scale, and a bias of relative positions, which only the first block has weights for."""

    def __init__(self, has_bias, *, rngs):
        self.q, self.k, self.v, self.o = (nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs) for _ in range(4))
        self.relative_bias = nnx.Embed(2 * LENGTH, 2, rngs=rngs) if has_bias else None

    def bias(self, queries, keys):
        offset = np.arange(keys)[None] - np.arange(queries)[:, None] + LENGTH
        return self.relative_bias(jnp.asarray(offset)).transpose(2, 0, 1)[None]

    def __call__(self, x, memory, bias):
        q, k, v = (f(a).reshape(*a.shape[:2], 2, -1) for f, a in ((self.q, x), (self.k, memory), (self.v, memory)))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        if bias is not None:
            scores = scores + jnp.broadcast_to(bias, scores.shape)
        y = jnp.einsum("bhqk,bkhd->bqhd", nnx.softmax(scores), v)
        return self.o(y.reshape(x.shape))


class T5Block(nnx.Module):
    """Returns the hidden states and the bias of positions, which it got or made."""

    def __init__(self, first, is_decoder, *, rngs):
        self.is_decoder = is_decoder
        norms = 3 if is_decoder else 2
        self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(norms)])
        self.self_attention = BiasedAttention(first, rngs=rngs)
        self.cross_attention = BiasedAttention(False, rngs=rngs) if is_decoder else None
        self.mlp = MLP(rngs=rngs)

    def __call__(self, x, bias, memory):
        if bias is None:
            bias = self.self_attention.bias(x.shape[1], x.shape[1])
            if self.is_decoder:
                bias = bias + jnp.where(np.tri(x.shape[1], dtype=bool), 0.0, -1e9)[None, None]
        y = self.norms[0](x)
        x = x + self.self_attention(y, y, bias)
        if self.cross_attention is not None:
            x = x + self.cross_attention(self.norms[1](x), memory, None)
        return x + self.mlp(self.norms[-1](x)), bias


class T5Stack(nnx.Module):
    def __init__(self, is_decoder, *, rngs):
        self.blocks = nnx.List([T5Block(i == 0, is_decoder, rngs=rngs) for i in range(3)])
        self.final_norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, x, memory=None):
        bias = None
        for block in self.blocks:
            x, bias = block(x, bias, memory)
        return self.final_norm(x)


class T5(nnx.Module):
    def __init__(self, *, rngs):
        self.shared = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.encoder = T5Stack(False, rngs=rngs)
        self.decoder = T5Stack(True, rngs=rngs)
        self.lm_head = nnx.Linear(WIDTH, WORDS, use_bias=False, rngs=rngs)

    def __call__(self, ids, decoder_ids):
        table = self.shared.embedding[...]
        memory = self.encoder(self.shared(ids))
        return self.lm_head(self.decoder(table[decoder_ids], memory))


class T5Classifier(nnx.Module):
    def __init__(self, *, rngs):
        self.shared = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.encoder = T5Stack(False, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, ids):
        return self.head(self.encoder(self.shared(ids)).mean(1))


def ids(n):
    return (tokens(n, LENGTH, WORDS),), {}


def padded(keyword):
    """Ids that end in zeros, and with `keyword` the mask of the others."""

    def make(n):
        mask = np.arange(LENGTH) < 3 + np.arange(n)[:, None] % (LENGTH - 2)
        ids = jnp.where(mask, tokens(n, LENGTH, WORDS), 0)
        return (ids,), {"attention_mask": jnp.asarray(mask)} if keyword else {}

    return make


def two_texts(n):
    return (tokens(n, LENGTH, WORDS), tokens(n, 5, WORDS, seed=1)), {}


KINDS = (
    kind(
        "BERT",
        make_nnx(Bert, "none"),
        ids,
        "layers.0 layers.1 layers.2",
        "embeddings.norm embeddings layers.0.norm1 layers.0 layers.1.norm1 layers.1 layers.2.norm2 layers.2 pooler "
        "classifier",
        # The table of positions does not depend on the batch at all.
        "embeddings.position layers.0.attention.query layers.0.attention.key layers.1.attention layers.2.mlp",
        also="embeddings",
    ),
    kind(
        "BERT with a mask",
        make_nnx(Bert, "argument"),
        padded(keyword=True),
        "layers.2",
        # The mask is not needed after the last attention.
        "layers.2.norm1 layers.2 pooler classifier",
        "embeddings.word embeddings layers.0 layers.1.norm1 layers.1 layers.2.attention layers.2.mlp",
    ),
    kind(
        "BERT that masks padding",
        make_nnx(Bert, "padding"),
        padded(keyword=False),
        "layers.2",
        "layers.2.norm1 layers.2 pooler classifier",
        "embeddings.word embeddings layers.0 layers.1.norm1 layers.1 layers.2.attention layers.2.mlp",
    ),
    kind(
        "BERT with a mask in Linen",
        make_linen(LinenBert(), jnp.zeros((2, LENGTH), jnp.int32), jnp.ones((2, LENGTH), bool)),
        padded(keyword=True),
        "layers_2",
        "layers_2.norm1 layers_2 pooler classifier",
        "embed layers_0 layers_1 layers_1.norm1 layers_2.attention layers_2.fc2",
    ),
    kind(
        "ALBERT",
        make_nnx(Bert, "none", tied=True),
        ids,
        "layers.0",  # at its first call
        "embeddings layers.0.norm1 layers.0 pooler classifier",
        "embeddings.position layers.0.attention.query layers.0.attention layers.0.mlp.fc1 layers.0.mlp",
        also="embeddings",
    ),
    kind(
        "text as vectors",
        make_nnx(EmbeddedText),
        floats(LENGTH, 6),
        BLOCKS,
        f"project {BLOCKS} norm head",
        INSIDE,
    ),
    kind(
        "decoder alone",
        make_nnx(DecoderOnly),
        ids,
        BLOCKS,
        f"wte {BLOCKS} ln_f",
        INSIDE,
        also="wte",
    ),
    kind(
        "T5",
        make_nnx(T5),
        two_texts,
        # The decoder's own tokens go around the encoder, and what was encoded around all blocks but the last.
        "decoder.blocks.2",
        "decoder.blocks.2 decoder.final_norm decoder lm_head",
        "shared encoder.blocks.0 encoder.blocks.2 encoder.final_norm encoder decoder.blocks.0 decoder.blocks.1 "
        "decoder.blocks.2.self_attention decoder.blocks.2.cross_attention decoder.blocks.2.cross_attention.q "
        "decoder.blocks.2.mlp",
    ),
    kind(
        "T5 encoder",
        make_nnx(T5Classifier),
        ids,
        "encoder.blocks.0 encoder.blocks.1 encoder.blocks.2",
        "shared encoder.blocks.0 encoder.blocks.1 encoder.blocks.2 encoder.final_norm encoder head",
        "encoder.blocks.0.self_attention.q encoder.blocks.1.mlp encoder.blocks.2.self_attention",
        also="shared",
    ),
)
