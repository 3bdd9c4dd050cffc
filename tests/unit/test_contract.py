"""Every method on every architecture keeps the contract of `tests.contract`, or is refused with a one-line reason."""

from __future__ import annotations

import pytest
import torch

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins.catalog import methods
from adapeff.worker.methods.peft_table import TABLE, read_peft
from tests.contract import PARAMETERS, check
from tests.encoders import ENCODERS, adapt, batch

PEFT_ON_NOTHING = ("peft:adaption_prompt", "peft:cpt", "peft:xlora")
NEEDS_A_CACHE = ("peft:cartridge", "peft:prefix_tuning")
REFUSED: dict[tuple[str, str], str] = {
    **{(name, architecture): "does not run on encoders" for name in PEFT_ON_NOTHING for architecture in ENCODERS},
    **{(name, "distilbert"): "DistilBertModel: it needs attention that takes a cache" for name in NEEDS_A_CACHE},
    **{(name, "deberta-v2"): "DebertaV2Model: it needs attention that takes a cache" for name in NEEDS_A_CACHE},
    **{(name, "modernbert"): "ModernBertModel: it needs attention that takes a cache" for name in NEEDS_A_CACHE},
    **{(name, "mpnet"): "MPNetModel: it needs attention that takes a cache" for name in NEEDS_A_CACHE},
    ("bitfit", "modernbert"): "ModernBertModel has no biases to train",
    ("peft:poly", "deberta-v2"): "does not run on DebertaV2Model: it routes per example",
    ("peft:shadow", "distilbert"): "does not run on DistilBertModel: it copies a stack of layers",
}
"""Method and architecture -> what the refusal says; everything else runs."""

OWN_TUNERS = (
    "houlsby",
    "pfeiffer",
    "houlsby_parallel",
    "pfeiffer_parallel",
    "parallel_scaled",
    "compacter",
    "compacter++",
    "prefix_tuning",
    "mam",
    "unipelt",
)


def _is_quick(method: str, architecture: str) -> bool:
    """Whether a case runs where slow tests are left out: adapeff's own methods on BERT."""
    return architecture == "bert" and not method.startswith("peft:")


@pytest.mark.filterwarnings("ignore")  # some of PEFT's tuners warn of what they lack: ninja, a bias to merge into ...
@pytest.mark.parametrize(
    ("method", "architecture"),
    [
        pytest.param(name, architecture, marks=[] if _is_quick(name, architecture) else pytest.mark.slow)
        for name in methods()
        for architecture in ENCODERS
    ],
)
def test_method_keeps_its_contract(method: str, architecture: str) -> None:
    if (reason := REFUSED.get((method, architecture))) is None:
        check(method, architecture)
    else:
        with pytest.raises(AdapeffError, match=reason):
            check(method, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("method", OWN_TUNERS)
def test_compiled_adapter_is_one_graph_with_the_same_outputs(method: str, architecture: str) -> None:
    torch._dynamo.reset()
    model, _ = adapt(method + PARAMETERS.get(method, ""), architecture)
    model.eval()
    compiled = torch.compile(model.encoder, backend="aot_eager", fullgraph=True)

    with torch.no_grad():
        assert torch.allclose(compiled(**batch()).last_hidden_state, model.encoder(**batch()).last_hidden_state)

    compiled(**batch()).last_hidden_state.sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters() if p.requires_grad)


def test_table_of_pefts_tuners_is_the_installed_pefts() -> None:
    """After an upgrade of PEFT: python -m adapeff.worker.methods.peft_table."""
    import json

    assert json.loads(TABLE.read_text()) == json.loads(json.dumps(read_peft()))
