"""The formulas of the adapters, as plain modules that are independent of the model around them.

Shapes: hidden states are batch x length x hidden. Weights of linear layers are out x in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from adapeff.service.errors import ModelError
from adapeff.worker.adapters.parts import BottleneckPart, FusionPart, LoraPart, PhmPart, PrefixPart

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "swish": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "leakyrelu": nn.LeakyReLU,
    "tanh": nn.Tanh,
}


class Gate(nn.Linear):
    """One number per example: the mean over all positions, padding included, of sigmoid(w.z + b).

    Source: Mao et al. 2022, UniPELT, arXiv:2110.07577, section 3.2; the mean includes padding as in AdapterHub.
    """

    def __init__(self, hidden_size: int, *, zero_bias: bool) -> None:
        super().__init__(hidden_size, 1)
        nn.init.normal_(self.weight, std=0.02)
        if zero_bias:
            nn.init.zeros_(self.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Batch x length x hidden to batch x 1 x 1."""
        return torch.sigmoid(super().forward(z)).mean(dim=1, keepdim=True)


class PhmRule(nn.Module):
    """The rule R of parameterised hypercomplex multiplication, n x n x n, whole or as products left x right."""

    def __init__(self, part: PhmPart, *, std: float) -> None:
        super().__init__()
        n = part.dim
        if part.factorised_rule:
            self.left = nn.Parameter(torch.empty(n, n, 1))
            self.right = nn.Parameter(torch.empty(n, 1, n))
        else:
            self.rule = nn.Parameter(torch.empty(n, n, n))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=std)

    def forward(self) -> torch.Tensor:
        """R, n x n x n."""
        return torch.bmm(self.left, self.right) if hasattr(self, "left") else self.rule


class PhmLinear(nn.Module):
    """y = x M + b with M = sum_i kron(R_i, W_i), in x out, W_i = left_i right_i of rank `rank` or whole.

    Source: Karimi Mahabadi et al. 2021, Compacter, arXiv:2106.04647, equations 4 to 6; W from Xavier, b zero, an
    unshared rule from N(0, 0.01^2).
    """

    def __init__(self, in_features: int, out_features: int, part: PhmPart, shared: PhmRule | None) -> None:
        super().__init__()
        n = part.dim
        if in_features % n or out_features % n:
            raise ModelError(
                f"compacter's phm_dim is {n}, but it must divide both the hidden size and the bottleneck size "
                f"({in_features} and {out_features}); choose another phm_dim or reduction_factor"
            )
        rows, columns = in_features // n, out_features // n
        if part.factorised_weight:
            self.left = nn.Parameter(torch.empty(n, rows, part.rank))
            self.right = nn.Parameter(torch.empty(n, part.rank, columns))
        else:
            self.weight = nn.Parameter(torch.empty(n, rows, columns))
        draw = nn.init.xavier_uniform_ if part.weight_init == "xavier_uniform" else nn.init.xavier_normal_
        for parameter in self.parameters():
            for matrix in parameter.data:
                draw(matrix)
        self.bias = nn.Parameter(torch.zeros(out_features))
        if shared is None:
            self.rule = PhmRule(part, std=0.01)
        self._shared = (shared,)  # in a tuple, so that it is not registered twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shared = self._shared[0]
        rule: torch.Tensor = (self.rule if shared is None else shared)()
        blocks = torch.bmm(self.left, self.right) if hasattr(self, "left") else self.weight
        n, rows, columns = blocks.shape
        # sum_i R_i[a, c] W_i[p, q] as one matrix product; transposed to out x in for functional.linear
        products = rule.reshape(n, n * n).T @ blocks.reshape(n, rows * columns)
        weight = products.view(n, n, rows, columns).permute(1, 3, 0, 2).reshape(n * columns, n * rows)
        return functional.linear(x, weight, self.bias)


class Bottleneck(nn.Module):
    """B(z) = dropout(gate(z) * s * (U a(D z' + b_D) + b_U)), z' = ln_before(z) if set, else z.

    D is bottleneck x hidden, U hidden x bottleneck, bottleneck = max(1, floor(hidden / reduction_factor)).
    Source: Houlsby et al. 2019, arXiv:1902.00751, section 2.1; options as AdapterHub's (Poth et al. 2023,
    arXiv:2311.11077).
    """

    def __init__(self, hidden_size: int, layer: int, part: BottleneckPart, rule: PhmRule | None) -> None:
        super().__init__()
        self.part = part
        size = max(1, int(hidden_size // part.reduction(layer)))
        if part.phm is None:
            self.down: nn.Module = nn.Linear(hidden_size, size)
            self.up: nn.Module = nn.Linear(size, hidden_size)
            _initialise(self.down, self.up, part.init)
        else:
            self.down = PhmLinear(hidden_size, size, part.phm, rule)
            self.up = PhmLinear(size, hidden_size, part.phm, rule)
        self.activation = ACTIVATIONS[part.non_linearity]()
        self.ln_before = nn.LayerNorm(hidden_size) if part.ln_before else None
        self.ln_after = nn.LayerNorm(hidden_size) if part.ln_after else None
        self.gate = Gate(hidden_size, zero_bias=True) if part.gated else None
        if isinstance(part.scaling, str):
            self.scaling: nn.Parameter | float = nn.Parameter(
                torch.ones(hidden_size if part.scaling == "channel" else 1)
            )
        else:
            self.scaling = part.scaling
        self.dropout = nn.Dropout(part.dropout)

    def delta(self, z: torch.Tensor) -> torch.Tensor:
        """s * (U a(D z' + b_D) + b_U), which is what fusion reads."""
        hidden = z if self.ln_before is None else self.ln_before(z)
        projected: torch.Tensor = self.up(self.activation(self.down(hidden)))
        is_scaled = isinstance(self.scaling, nn.Parameter) or self.scaling != 1.0
        return projected * self.scaling if is_scaled else projected

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        output = self.delta(z)
        if self.gate is not None:
            output = output * self.gate(z)
        dropped: torch.Tensor = self.dropout(output)
        return dropped


def _initialise(down: nn.Linear, up: nn.Linear, init: str) -> None:
    for linear in (down, up):
        nn.init.zeros_(linear.bias)
        if init == "bert":
            nn.init.normal_(linear.weight, std=0.02)
        elif init == "houlsby":
            nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
    if init == "lora":
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)


class PrefixEncoder(nn.Module):
    """The keys and values of all layers' prefixes: T = W_out tanh(W_in E + b_in) + b_out, or T itself ("flat").

    T is length x (2 * layers * hidden), viewed as length x 2 layers x hidden; the l-th layer that has a prefix
    takes K = T[:, 2l] and V = T[:, 2l + 1]. E is drawn from N(0, 1), as is a flat T.
    Source: Li & Liang 2021, Prefix-Tuning, arXiv:2101.00190, section 4.3.
    """

    def __init__(self, hidden_size: int, layers: int, part: PrefixPart) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        if part.flat:
            self.flat = nn.Parameter(torch.randn(part.length, 2 * layers * hidden_size))
        else:
            self.embedding = nn.Parameter(torch.randn(part.length, hidden_size))
            self.mlp_in = nn.Linear(hidden_size, part.bottleneck_size)
            self.mlp_out = nn.Linear(part.bottleneck_size, 2 * layers * hidden_size)
        self.dropout = nn.Dropout(part.dropout)

    @property
    def is_flat(self) -> bool:
        """Whether there is no MLP, because there never was one or it was ejected."""
        return hasattr(self, "flat")

    def forward(self, number: int) -> torch.Tensor:
        """Keys and values of one layer, length x 2 hidden; each layer computes its own slice, and nothing is cached."""
        start, end = 2 * number * self.hidden_size, 2 * (number + 1) * self.hidden_size
        if self.is_flat:
            both = self.flat[:, start:end]
        else:
            hidden = torch.tanh(self.mlp_in(self.embedding))
            both = functional.linear(hidden, self.mlp_out.weight[start:end], self.mlp_out.bias[start:end])
        dropped: torch.Tensor = self.dropout(both)
        return dropped

    @torch.no_grad()
    def eject(self) -> None:
        """Replace the MLP by its output: the same function with far fewer weights to store."""
        if self.is_flat:
            return
        both = self.mlp_out(torch.tanh(self.mlp_in(self.embedding)))
        trainable = self.embedding.requires_grad
        del self.embedding, self.mlp_in, self.mlp_out
        self.flat = nn.Parameter(both, requires_grad=trainable)


class LowRank(nn.Module):
    """s * B A x with A rank x in (Kaiming uniform, a = sqrt 5) and B out x rank (zero); s = alpha / rank, or a gate.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; the gate: Mao et al. 2022, arXiv:2110.07577.
    """

    def __init__(self, in_features: int, out_features: int, part: LoraPart) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, part.rank, bias=False)
        self.up = nn.Linear(part.rank, out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        self.gate = Gate(in_features, zero_bias=False) if part.gated else None
        self.scaling = part.alpha / part.rank
        self.dropout = nn.Dropout(part.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        update: torch.Tensor = self.up(self.down(self.dropout(x)))
        scaled: torch.Tensor = update * (self.scaling if self.gate is None else self.gate(x))
        return scaled


class Fusion(nn.Module):
    """sum_i a_i v_i with a = softmax_i(q . k_i), q = Wq z + bq, k_i = Wk u_i + bk, v_i = Wv u_i (or u_i: "static").

    No 1 / sqrt(hidden). Wq and Wk from N(0, 0.02^2), biases zero, Wv 1e-6 with ones on the diagonal.
    Source: Pfeiffer et al. 2021, AdapterFusion, arXiv:2005.00247, section 3.2; dropout on the scores as in AdapterHub.
    """

    def __init__(self, hidden_size: int, part: FusionPart, dropout: float) -> None:
        super().__init__()
        self.members: tuple[str, ...] = ()
        """Names of the adapters that are mixed here."""
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False) if part.value else None
        if self.value is not None:
            with torch.no_grad():
                self.value.weight.fill_(1e-6).fill_diagonal_(1.0)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Mix the members' `outputs`, members x batch x length x hidden, for the query `z`."""
        scores = (self.query(z) * self.key(outputs)).sum(dim=-1)  # members x batch x length
        weights = self.dropout(scores).softmax(dim=0).unsqueeze(-1)
        values = outputs if self.value is None else self.value(outputs)
        mixed: torch.Tensor = (weights * values).sum(dim=0)
        return mixed

    def auxiliary_loss(self) -> torch.Tensor:
        """||I - Wv||^2 (Frobenius): keeps the values near the members' outputs; training adds it with weight 0.01."""
        if self.value is None:
            return torch.zeros((), device=self.query.weight.device)
        weight = self.value.weight
        return (torch.eye(weight.shape[0], device=weight.device, dtype=weight.dtype) - weight).square().sum()
