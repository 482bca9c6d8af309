"""The floating-point operations of an update, counted by hand: what a model FLOPs utilisation (MFU) is measured with.

Counted are matrix products alone, a multiplication and an addition as two; a backward pass takes twice the forward one,
but for the patch embedding, since pixels have no gradient. Where a loss asks for CLS alone, so much of the last block
counts, whether or not somebody computes the rest. Left out is what is small: positions, masks, tracking.
"""

import itertools
from typing import Any


def update(problem: dict[str, Any]) -> float | None:
    """Return the operations of one update of a problem, see `step_ssljax.describe`; None where no formula is here."""
    formulas = {"dora": dora, "dino": dino, "mae": mae, "simclr": simclr, "mocov3": mocov3}
    if problem["objective"] not in formulas or problem["encoder"]["kind"] != "vit":
        return None
    return float(formulas[problem["objective"]](problem))


def dora(problem: dict[str, Any]) -> float:
    """The teacher sees each frame; the student each frame once for each object, embedded once, and the local crops."""
    frames, objects, crops = problem["batch"] * problem["frames"], problem["objects"], problem["locals"]
    whole, part = patches(problem, "global_size"), patches(problem, "local_size") if crops else 0
    teacher = frames * (embedding(problem, whole) + encoder(problem, 1 + whole) + head(problem))
    embedded = frames * (embedding(problem, whole) + crops * embedding(problem, part))
    seen = max(1, round(whole * problem["kept_share"])) if problem["mask_mode"] == "drop" else whole
    masked = objects * encoder(problem, 1 + seen, cls_only=True)
    student = frames * (masked + crops * encoder(problem, 1 + part, cls_only=True))
    return teacher + 2 * embedded + 3 * (student + frames * (objects + crops) * head(problem))


def dino(problem: dict[str, Any]) -> float:
    """The teacher sees the two global crops, the student those and the local ones."""
    images, crops = problem["batch"], problem["locals"]
    whole, part = patches(problem, "global_size"), patches(problem, "local_size") if crops else 0
    teacher = 2 * images * (embedding(problem, whole) + encoder(problem, 1 + whole, cls_only=True) + head(problem))
    embedded = images * (2 * embedding(problem, whole) + crops * embedding(problem, part))
    student = 2 * encoder(problem, 1 + whole, cls_only=True) + crops * encoder(problem, 1 + part, cls_only=True)
    return teacher + 2 * embedded + 3 * images * (student + (2 + crops) * head(problem))


def mae(problem: dict[str, Any]) -> float:
    """Every patch is embedded, the visible ones go through the encoder, and all through the decoder."""
    frames, whole = problem["frames"] or 1, patches(problem, "global_size")
    visible = int(whole * (1 - problem["mask_ratio"]) + 1e-6)
    width, decoder = problem["encoder"]["width"], problem["decoder"]
    hidden, tokens = decoder["hidden"], frames * (1 + whole)
    ends = frames * (2 * (1 + visible) * width * hidden + 2 * whole * hidden * 3 * decoder["patch_size"] ** 2)
    decoded = decoder["depth"] * block(tokens, hidden, int(hidden * decoder["mlp_ratio"]), rows=tokens)
    seen = 2 * frames * embedding(problem, whole) + 3 * frames * encoder(problem, 1 + visible)
    return problem["batch"] * (seen + 3 * (ends + decoded))


def simclr(problem: dict[str, Any]) -> float:
    """Two views of each image are encoded and projected; each is compared with all, forwards and twice backwards."""
    views, whole = 2 * problem["batch"], patches(problem, "global_size")
    seen = 2 * embedding(problem, whole) + 3 * encoder(problem, 1 + whole, cls_only=True)
    return views * (seen + 3 * mlp(problem["encoder"]["width"], problem["projector"]))


def mocov3(problem: dict[str, Any]) -> float:
    """Both views go through both encoders with their projectors, the queries through a predictor, too."""
    views, whole = 2 * problem["batch"], patches(problem, "global_size")
    projector, predictor = problem["projector"], problem["predictor"]
    through = encoder(problem, 1 + whole, cls_only=True) + mlp(problem["encoder"]["width"], projector)
    student = 2 * embedding(problem, whole) + 3 * (through + mlp(projector["outputs"], predictor))
    return views * (student + embedding(problem, whole) + through)


def patches(problem: dict[str, Any], size: str) -> int:
    """Return the number of patches of a view."""
    return (problem[size] // problem["encoder"]["patch_size"]) ** 2


def embedding(problem: dict[str, Any], count: int) -> float:
    """Return the operations of the forward pass of the patch embedding of one image."""
    return 2 * count * 3 * problem["encoder"]["patch_size"] ** 2 * problem["encoder"]["width"]


def encoder(problem: dict[str, Any], tokens: int, *, cls_only: bool = False) -> float:
    """Return the operations of the forward pass of all blocks over one sequence; of the last, for CLS alone or all."""
    width, hidden, depth = (problem["encoder"][name] for name in ("width", "hidden", "depth"))
    last = block(tokens, width, hidden, rows=1 if cls_only else tokens)
    return (depth - 1) * block(tokens, width, hidden, rows=tokens) + last


def block(tokens: int, width: int, hidden: int, *, rows: int) -> float:
    """Return those of one block, of whose tokens some leave it.

    Keys and values are of all tokens, queries, the output, the MLP, and the pairs with all tokens, twice, of those.
    """
    return 2 * (tokens * 2 * width**2 + rows * (2 * width**2 + 2 * tokens * width + 2 * width * hidden))


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
