"""MAE against `transformers`: the same weights and noise give the same pixels, loss and gradients."""

import functools
import importlib

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ssljax.export.names import vit_to_torch
from ssljax.models.mae import MAEDecoder
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.mae import MAE, masked_error

pytestmark = pytest.mark.long
torch = pytest.importorskip("torch")

ENCODER = {
    "cls_token": "vit.embeddings.cls_token",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "blocks.": "vit.layers.",
    "norm.": "vit.layernorm.",
}
DECODER = {"embed": "decoder_embed", "norm": "decoder_norm", "pixels": "decoder_pred"}
LAYER = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
}


def theirs(params):
    """Return the parameters (or their gradients) under the names of `transformers.ViTMAEForPreTraining`."""
    state = {}
    for name, array in vit_to_torch(params["encoder"]).items():
        old = next(old for old in ENCODER if name.startswith(old))
        state[name.replace(old, ENCODER[old], 1)] = array
    decoder = dict(params["decoder"])
    # The decoder's blocks are named as an encoder's, whose other parameters do not matter here.
    blocks = vit_to_torch({**params["encoder"], "blocks": decoder.pop("blocks")})
    state |= {f"decoder.decoder_layers.{k[7:]}": v for k, v in blocks.items() if k.startswith("blocks.")}
    state["decoder.mask_token"] = np.asarray(decoder.pop("mask"))[None, None]
    for path, leaf in traverse_util.flatten_dict(decoder).items():
        kind = "bias" if path[1] == "bias" else "weight"
        state[f"decoder.{DECODER[path[0]]}.{kind}"] = np.asarray(leaf).T
    return {new: torch.tensor(array) for name, old in state.items() for new, array in split(name, old)}


def split(name, array):
    for ours, others in LAYER.items():
        name = name.replace(ours, others)
    if "attn.qkv" not in name:
        return [(name, array)]
    return [
        (name.replace("attn.qkv", f"attention.{x}_proj"), part)
        for x, part in zip("qkv", np.split(array, 3), strict=True)
    ]


def fill_positions(model):
    """Write MAE's fixed positions, which a new model of transformers 5 leaves at zero, with its own function."""
    build = importlib.import_module(type(model).__module__).build_2d_sinusoidal_position_embedding
    for parameter in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        rows, columns = build(4, 4, parameter.shape[-1], cls_token=True).chunk(2, dim=1)
        parameter.data.copy_(torch.cat([columns, rows], dim=1)[None])  # as their weights and the released code have it


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_pixels_loss_and_every_gradient(norm_pix_loss):
    transformers = pytest.importorskip("transformers")
    mae = MAE(
        encoder=Pure(
            functools.partial(
                ViT, image_size=32, patch_size=8, width=48, depth=3, heads=3, positions="sincos", norm_eps=1e-12
            )
        ),
        decoder=Pure(
            functools.partial(MAEDecoder, width=48, patch_size=8, hidden=32, depth=2, heads=4, norm_eps=1e-12)
        ),
        views=lambda image, key: image,
        size=32,
        norm_pix_loss=norm_pix_loss,
    )
    config = transformers.ViTMAEConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=32,
        patch_size=8,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=128,
        norm_pix_loss=norm_pix_loss,
    )
    model = transformers.ViTMAEForPreTraining(config).train()
    fill_positions(model)
    params, _ = mae.init(jax.random.key(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + jnp.asarray(random.normal(scale=0.05, size=p.shape), jnp.float32), params)
    state = theirs(params)
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name.rpartition(".")[2] for name in fixed} == {"position_embeddings", "decoder_pos_embed"}
    missing = model.load_state_dict(state, strict=False)
    assert set(missing.missing_keys) == fixed and not missing.unexpected_keys  # positions are theirs: no parameters

    images = random.normal(size=(3, 1, 32, 32, 3)).astype(np.float32)
    noise = random.random((3, 16), np.float32)

    def loss(params):
        out = mae.reconstruct(params, images, noise)
        return masked_error(out.predicted, mae.targets(images), out.hidden), out

    with jax.default_matmul_precision("highest"):
        (value, out), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    pixels = torch.tensor(einops.rearrange(images, "b 1 h w c -> b c h w"))
    expected = model(pixels, noise=torch.tensor(noise))
    expected.loss.backward()
    np.testing.assert_array_equal(out.hidden, expected.mask.numpy() == 1)
    np.testing.assert_allclose(out.predicted[:, 0], expected.logits.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(value, expected.loss.item(), rtol=1e-6)
    named, ours = dict(model.named_parameters()), theirs(gradients)
    assert ours.keys() == named.keys() - fixed
    for name, gradient in ours.items():
        np.testing.assert_allclose(gradient, named[name].grad.numpy(), atol=1e-5, err_msg=name)
