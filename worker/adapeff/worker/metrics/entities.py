"""Entity-level scores of tag sequences, by conlleval's rules (Tjong Kim Sang and Buchholz 2000), as in seqeval.

A tag is `O`, or a prefix B, I, E or S, a hyphen, and a type. An entity counts as found if type, start and end agree.
"""

from __future__ import annotations

from collections.abc import Sequence

from adapeff.service.plugins.contracts import Metric

Tags = Sequence[str]
Counts = list[tuple[float, ...]]


def entities(tags: Tags) -> set[tuple[str, int, int]]:
    """The entities of one sentence as (type, first token, last token).

    An entity begins at B or S, and at I or E where nothing of its type is open: the token before is outside, ends an
    entity (E, S) or has another type. So IOB1, IOB2 and IOBES are all read as they are meant.
    """
    found: list[tuple[str, int, int]] = []
    before, type_before = "O", ""
    for at, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix != "O":
            if prefix in "BS" or before in "OES" or kind != type_before:
                found.append((kind, at, at))
            else:
                found[-1] = (kind, found[-1][1], at)
        before, type_before = prefix, kind
    return set(found)


def _entity_counts(gold: Sequence[Tags], predicted: Sequence[Tags]) -> Counts:
    """Entities found, gold and predicted in each sentence."""
    pairs = [(entities(a), entities(b)) for a, b in zip(gold, predicted, strict=True)]
    return [(float(len(a & b)), float(len(a)), float(len(b))) for a, b in pairs]


def _precision(sums: Sequence[float]) -> float:
    return sums[0] / sums[2] if sums[2] else 0.0


def _recall(sums: Sequence[float]) -> float:
    return sums[0] / sums[1] if sums[1] else 0.0


def _f1(sums: Sequence[float]) -> float:
    return 2 * sums[0] / (sums[1] + sums[2]) if sums[1] + sums[2] else 0.0


def _token_counts(gold: Sequence[Tags], predicted: Sequence[Tags]) -> Counts:
    return [
        (float(sum(x == y for x, y in zip(a, b, strict=True))), float(len(a)))
        for a, b in zip(gold, predicted, strict=True)
    ]


def _tag_counts(gold: Sequence[Tags], predicted: Sequence[Tags]) -> Counts:
    """For each tag how often it is right, gold, predicted in each sentence: 3 x tags numbers."""
    every = sorted({tag for tags in (*gold, *predicted) for tag in tags})
    places = {tag: 3 * at for at, tag in enumerate(every)}
    rows = []
    for a, b in zip(gold, predicted, strict=True):
        row = [0.0] * (3 * len(every))
        for x, y in zip(a, b, strict=True):
            row[places[x]] += x == y
            row[places[x] + 1] += 1
            row[places[y] + 2] += 1
        rows.append(tuple(row))
    return rows


def _token_macro_f1(sums: Sequence[float]) -> float:
    classes = [sums[at : at + 3] for at in range(0, len(sums), 3) if sums[at + 1] or sums[at + 2]]
    return sum(2 * right / (gold + predicted) for right, gold, predicted in classes) / len(classes)


def _token_accuracy(sums: Sequence[float]) -> float:
    return sums[0] / sums[1] if sums[1] else 0.0


_FAMILIES: tuple[str, ...] = ("token_classification",)
ENTITY_METRICS = (
    Metric("entity_f1", "micro-averaged F1 of whole entities (seqeval)", True, _entity_counts, _f1, _FAMILIES),
    Metric(
        "entity_precision",
        "share of the predicted entities that are right",
        True,
        _entity_counts,
        _precision,
        _FAMILIES,
    ),
    Metric("entity_recall", "share of the gold entities that are found", True, _entity_counts, _recall, _FAMILIES),
    Metric(
        "token_accuracy",
        "share of the tokens with the right tag, O too",
        True,
        _token_counts,
        _token_accuracy,
        _FAMILIES,
    ),
    Metric(
        "token_macro_f1",
        "F1 of each tag over the tokens, averaged; tags neither gold nor predicted left out",
        True,
        _tag_counts,
        _token_macro_f1,
        _FAMILIES,
    ),
)
