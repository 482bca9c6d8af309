"""The table that `ssljax evaluate` prints."""

from ssljax.evaluations import table


def test_shares_are_in_per_cent():
    lines = table({"trained": {"knn_10": 0.5, "knn_20": 0.12345}, "pixels": {"knn_10": 1.0, "knn_20": 0.0}})
    assert lines.splitlines() == [
        "|         | knn_10 | knn_20 |",
        "| ------- | ------ | ------ |",
        "| trained |  50.00 |  12.35 |",
        "| pixels  | 100.00 |   0.00 |",
    ]


def test_other_numbers_are_as_they_are_and_what_is_missing_is_a_dash():
    results = {"pixels": {"rankme": 31.41592}, "trained": {"rankme": 7.0, "entropy": -0.0625}}
    assert table(results, shares=False).splitlines() == [
        "|         | rankme | entropy |",
        "| ------- | ------ | ------- |",
        "| pixels  | 31.416 |       - |",
        "| trained |  7.000 |  -0.062 |",
    ]
