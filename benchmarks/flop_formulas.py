"""FLOPs of a training step of a BERT type encoder by formula, written down without looking at the graph.

A product of an m x k with a k x n matrix is 2 m k n FLOPs forward. Its backward pass costs as much again for the
gradient of each factor that needs one: of the weight where it is trained, of the input where anything below is trained.
d: hidden size, f: width of the feed-forward, L: layers, T = batch x length tokens, n: length (attention: 2 products of
2 T n d FLOPs each, both factors depend on the input). The head is dense d x d and d x labels on one token per example.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoder:
    """The sizes of a model and a batch."""

    layers: int
    hidden: int
    feed_forward: int
    batch: int
    length: int
    labels: int = 2

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.batch * self.length


@dataclass
class Count:
    """Forward and backward FLOPs that add up."""

    forward: float = 0
    backward: float = 0

    def product(self, flops: float, *, weight: bool, below: bool) -> None:
        """A product with a weight: its gradient if trained, that of its input if anything below is trained."""
        self.forward += flops
        self.backward += flops * (weight + below)


def adapter(count: Count, e: Encoder, size: float, *, below: bool) -> None:
    """Down and up projection of a bottleneck; above the first one something is trained below."""
    count.product(2 * e.tokens * e.hidden * size, weight=True, below=below)
    count.product(2 * e.tokens * e.hidden * size, weight=True, below=True)


def step_flops(method: str, e: Encoder, *, left_out: int = 0) -> Count:
    """FLOPs of a step of `full`, `head`, `bitfit`, `lora`, `houlsby`, `pfeiffer`, `compacter` or `prefix_tuning`.

    Args:
        left_out: the lowest layers that have no adapter (AdapterDrop at a fixed depth).

    Raises:
        ValueError: for another method.
    """
    d, t = e.hidden, e.tokens
    count = Count()
    full, adapted = method == "full", method not in ("full", "head")
    bottleneck = {"houlsby": d // 16, "pfeiffer": d // 16, "compacter": d // 32}.get(method, 0)
    prefix, mlp = (30, 512) if method == "prefix_tuning" else (0, 0)
    if method not in {"full", "head", "bitfit", "lora", "houlsby", "pfeiffer", "compacter", "prefix_tuning"}:
        raise ValueError(f"no formula for {method}")
    for layer in range(e.layers):
        has = adapted and layer >= left_out
        # whether something below this layer is trained; BitFit trains the bias of the embeddings' LayerNorm
        entered = full or method == "bitfit" or (adapted and layer > left_out)
        attention_trained = entered or (has and method in ("lora", "prefix_tuning"))
        for name in ("query", "key", "value"):
            count.product(2 * t * d * d, weight=full, below=entered)
            if has and method == "lora" and name in ("query", "value"):
                rank = 8
                count.product(2 * t * d * rank, weight=True, below=entered)
                count.product(2 * t * d * rank, weight=True, below=True)
        keys = e.length + (prefix if has else 0)
        for which in ("scores", "mixing"):  # both factors are activations
            flops = 2 * t * keys * d
            count.forward += flops
            if entered:
                count.backward += 2 * flops
            elif has and method in ("lora", "prefix_tuning"):
                # below the first layer's prefix or update only one factor may need a gradient
                first = {"lora": 2, "prefix_tuning": 1 if which == "scores" else 2}[method]
                count.backward += first * flops
        if has and prefix:  # the layer's slice of the prefix network, and the network below it
            count.product(2 * prefix * d * mlp, weight=True, below=True)
            count.product(2 * prefix * mlp * 2 * d, weight=True, below=True)
        count.product(2 * t * d * d, weight=full, below=attention_trained)
        if has and method in ("houlsby", "compacter"):
            adapter(count, e, bottleneck, below=entered)
        feed_below = attention_trained or (has and method in ("houlsby", "compacter"))
        count.product(2 * t * d * e.feed_forward, weight=full, below=feed_below)
        count.product(2 * t * d * e.feed_forward, weight=full, below=feed_below)
        if has and method in ("houlsby", "pfeiffer", "compacter"):
            adapter(count, e, bottleneck, below=feed_below)
    trained = full or (adapted and left_out < e.layers)
    count.product(2 * e.batch * d * d, weight=True, below=trained)
    count.product(2 * e.batch * d * e.labels, weight=True, below=True)
    return count
