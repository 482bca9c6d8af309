"""Time of exact k-NN on features, against scikit-learn's brute force in the same process.

    python -m benchmarks.knn [--queries 10000] [--features 50000] [--width 384] [--rounds 3]

Both classify the same random queries by the 200 nearest features with votes exp(cosine / 0.07), all cores each, one
after the other in turns. Compiling is timed apart. scikit-learn returns one number of neighbours; ours four at once.
"""

import argparse
import statistics
import time

import jax
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from ssljax.evaluate.knn import TEMPERATURE, knn
from ssljax.mesh import make_mesh

NEIGHBOURS = 200


def problem(count: int, width: int, seed: int, classes: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Features around a mean for each class, so near to each other that some are mistaken."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count, dtype=np.int32)
    means = np.random.default_rng(99).normal(size=(classes, width)).astype(np.float32)
    return means[labels] + 8 * random.standard_normal((count, width), np.float32), labels


def batches(features: np.ndarray, labels: np.ndarray, size: int = 2000) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(features[i : i + size], labels[i : i + size]) for i in range(0, len(features), size)]


def timed(call) -> tuple[float, float]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    train, test = problem(args.features, args.width, 0), problem(args.queries, args.width, 1)
    mesh, identity = make_mesh(), jax.jit(lambda x: x)
    weights = lambda distances: np.exp((1 - distances) / TEMPERATURE)  # noqa: E731

    def ours() -> float:
        return knn(identity, batches(*train), batches(*test), mesh)[f"knn_{NEIGHBOURS}"]

    def theirs() -> float:
        reference = KNeighborsClassifier(NEIGHBOURS, weights=weights, metric="cosine", algorithm="brute", n_jobs=-1)
        return reference.fit(*train).score(*test)

    first, _ = timed(ours)
    rounds = [(timed(ours), timed(theirs)) for _ in range(args.rounds)]
    (seconds, accuracy), (reference, expected) = (
        (statistics.median(pair[i][0] for pair in rounds), rounds[0][i][1]) for i in range(2)
    )
    print(f"{args.queries} queries, {args.features} features of width {args.width}, {NEIGHBOURS} neighbours, on")
    print(
        f"{jax.devices()[0].device_kind}, median of {args.rounds} rounds; the first, with compiling, took {first:.1f} s"
    )
    print(f"{'':>24} {'seconds':>8} {'accuracy':>9}")
    print(f"{'ssljax':>24} {seconds:>8.2f} {accuracy:>9.4f}")
    print(f"{'scikit-learn brute force':>24} {reference:>8.2f} {expected:>9.4f}")
    print(f"ratio: {reference / seconds:.2f} times as fast")


if __name__ == "__main__":
    main()
