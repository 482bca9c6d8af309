"""The floating-point operations of an update, counted by hand: what a model FLOPs utilisation (MFU) is measured with.

Counted are matrix products alone, a multiplication and an addition as two; a backward pass takes twice the forward one,
but for the patch embedding, since pixels have no gradient. Left out is what is small: positions, masks, tracking.
"""

import itertools
from typing import Any


def update(problem: dict[str, Any]) -> float | None:
    """Return the operations of one update of a problem, see `step_ssljax.describe`; None where no formula is here.

    There are formulas of ViTs without registers, their MLPs plain.
    """
    formulas, encoder = {"dora": dora, "dino": dino, "mae": mae, "simclr": simclr, "mocov3": mocov3}, problem["encoder"]
    if problem["objective"] not in formulas or encoder["kind"] != "vit" or encoder["registers"] or encoder["gated"]:
        return None
    return float(formulas[problem["objective"]](problem))


def dora(problem: dict[str, Any]) -> float:
    """The teacher sees each frame; the student each frame once for each object, embedded once, and the local crops."""
    frames, objects, crops = problem["batch"] * problem["frames"], problem["objects"], problem["locals"]
    whole, part = patches(problem, "global_size"), patches(problem, "local_size") if crops else 0
    teacher = frames * (embedding(problem, whole) + encoder(problem, 1 + whole) + head(problem))
    embedded = frames * (embedding(problem, whole) + crops * embedding(problem, part))
    shown = whole if problem["mask_mode"] == "zero" else max(1, round(whole * problem["kept_share"]))
    student = frames * (objects * encoder_of_cls(problem, 1 + shown) + crops * encoder_of_cls(problem, 1 + part))
    return teacher + 2 * embedded + 3 * (student + frames * (objects + crops) * head(problem))


def dino(problem: dict[str, Any]) -> float:
    """The teacher sees the two global crops, the student those and the local ones."""
    images, crops = problem["batch"], problem["locals"]
    whole, part = patches(problem, "global_size"), patches(problem, "local_size") if crops else 0
    teacher = 2 * images * (embedding(problem, whole) + encoder_of_cls(problem, 1 + whole) + head(problem))
    embedded = images * (2 * embedding(problem, whole) + crops * embedding(problem, part))
    student = images * (2 * encoder_of_cls(problem, 1 + whole) + crops * encoder_of_cls(problem, 1 + part))
    return teacher + 2 * embedded + 3 * (student + images * (2 + crops) * head(problem))


def mae(problem: dict[str, Any]) -> float:
    """Every patch is embedded, the visible ones go through the encoder, and all through the decoder."""
    frames, whole = problem["frames"] or 1, patches(problem, "global_size")
    visible = int(whole * (1 - problem["mask_ratio"]) + 1e-6)
    width, decoder = problem["encoder"]["width"], problem["decoder"]
    hidden = decoder["hidden"]
    ends = frames * (2 * (1 + visible) * width * hidden + 2 * whole * hidden * 3 * decoder["patch_size"] ** 2)
    decoded = decoder["depth"] * block(frames * (1 + whole), hidden, int(hidden * decoder["mlp_ratio"]))
    seen = 2 * frames * embedding(problem, whole) + 3 * frames * encoder(problem, 1 + visible)
    return problem["batch"] * (seen + 3 * (ends + decoded))


def simclr(problem: dict[str, Any]) -> float:
    """Two views of each image are encoded and projected; each is compared with all, forwards and twice backwards."""
    views, whole = 2 * problem["batch"], patches(problem, "global_size")
    seen = 2 * embedding(problem, whole) + 3 * encoder_of_cls(problem, 1 + whole)
    return views * (seen + 3 * mlp(problem["encoder"]["width"], problem["projector"]))


def mocov3(problem: dict[str, Any]) -> float:
    """Both views go through both encoders with their projectors, the queries through a predictor, too."""
    views, whole = 2 * problem["batch"], patches(problem, "global_size")
    projector, predictor = problem["projector"], problem["predictor"]
    through = encoder_of_cls(problem, 1 + whole) + mlp(problem["encoder"]["width"], projector)
    student = 2 * embedding(problem, whole) + 3 * (through + mlp(projector["outputs"], predictor))
    return views * (student + embedding(problem, whole) + through)


def patches(problem: dict[str, Any], size: str) -> int:
    """Return the number of patches of a view."""
    return (problem[size] // problem["encoder"]["patch_size"]) ** 2


def embedding(problem: dict[str, Any], count: int) -> float:
    """Return the operations of the forward pass of the patch embedding of one image."""
    return 2 * count * 3 * problem["encoder"]["patch_size"] ** 2 * problem["encoder"]["width"]


def encoder(problem: dict[str, Any], tokens: int) -> float:
    """Return the operations of the forward pass of all blocks over one sequence."""
    sizes = problem["encoder"]
    return sizes["depth"] * block(tokens, sizes["width"], sizes["hidden"])


def encoder_of_cls(problem: dict[str, Any], tokens: int) -> float:
    """Return those where CLS alone leaves the last block, which needs the others for keys and values only."""
    width, hidden = problem["encoder"]["width"], problem["encoder"]["hidden"]
    left_out = 2 * (tokens - 1) * (2 * width**2 + 2 * tokens * width + 2 * width * hidden)
    return encoder(problem, tokens) - left_out


def block(tokens: int, width: int, hidden: int) -> float:
    """Return those of one block: queries, keys, values and output; all pairs of tokens, twice; the MLP."""
    return 2 * tokens * (4 * width**2 + 2 * tokens * width + 2 * width * hidden)


def head(problem: dict[str, Any]) -> float:
    """Return those of DINO's head for one vector."""
    sizes = problem["head"]
    middle = (sizes["layers"] - 2) * sizes["hidden"] ** 2
    ends = problem["encoder"]["width"] * sizes["hidden"] + sizes["hidden"] * sizes["bottleneck"]
    return 2 * (ends + middle + sizes["bottleneck"] * sizes["prototypes"])


def mlp(width: int, sizes: dict[str, Any]) -> float:
    """Return those of a projector or predictor for one vector."""
    widths = [width, *[sizes["hidden"]] * (sizes["layers"] - 1), sizes["outputs"]]
    return 2 * sum(a * b for a, b in itertools.pairwise(widths))
