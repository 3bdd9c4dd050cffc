"""`peft:adalora`: PEFT's AdaLoRA, with the calls that it needs during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from adapeff.service.errors import ModelError
from adapeff.worker.methods.peft_tuner import PeftTuner

if TYPE_CHECKING:
    from torch import Tensor, nn


_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class AdaLora(PeftTuner):
    """LoRA whose ranks are reallocated during training (Zhang et al. 2023, AdaLoRA, arXiv:2303.10512)."""

    @model_validator(mode="after")
    def _ranks_shrink(self) -> Self:
        target, initial = self._rank("target_r"), self._rank("init_r")
        if target >= initial:
            raise ValueError(
                f"target_r is {target} and init_r is {initial}, but ranks only decrease; set target_r below init_r"
            )
        return self

    def _rank(self, name: str) -> int:
        """The value of a rank, PEFT's default if it is not set."""
        value = getattr(self, name)
        return int(type(self).model_fields[name].default if value is None else value)

    def _schedule(self, steps: int) -> tuple[int, int]:
        """The number of steps before and after ranks are reduced, by default a tenth and a half of all steps.

        The shares are close to those of the authors' script for SST-2 (6,000 and 22,000 of about 50,000 steps).
        """
        given = {name: getattr(self, name) for name in ("tinit", "tfinal") if name in self.model_fields_set}
        return given.get("tinit", steps // 10), given.get("tfinal", steps // 2)

    def settles_at(self, steps: int) -> int:
        """The step at which the ranks are final."""
        return steps - self._schedule(steps)[1]

    def on_step(self, adapted: nn.Module, steps: int) -> Callable[[int], None]:
        """Reallocate ranks over the whole of training (Zhang et al. 2023, algorithm 1).

        Raises:
            ModelError: if the schedule does not fit into the number of steps.
        """
        initial, final = self._schedule(steps)
        total = getattr(self, "total_step", None) if "total_step" in self.model_fields_set else None
        if total not in (None, steps):
            raise ModelError(
                f"peft:adalora: total_step is {total}, but training takes {steps} steps; leave total_step out"
            )
        if steps - final - initial < 2:
            raise ModelError(
                f"peft:adalora reduces ranks between steps {initial} (tinit) and {steps - final} ({steps} steps minus "
                f"tfinal {final}), which leaves no room; train for more steps, or lower tinit and tfinal"
            )
        tuner: Any = adapted.base_model
        config = tuner.peft_config[tuner.trainable_adapter_name]
        config.tinit, config.tfinal = initial, final
        tuner.rankallocator.set_total_step(steps)
        reallocate: Callable[[int], None] = tuner.update_and_allocate
        return reallocate

    def training_state(self, adapted: nn.Module) -> dict[str, Any]:
        """The running averages of importance, and the ranks chosen so far."""
        tuner: Any = adapted.base_model
        averages = {
            f"{kind}:{name}": tensor
            for kind in _AVERAGES
            for name, tensor in getattr(tuner.rankallocator, kind).items()
        }
        return {**averages, "rank_pattern": tuner.peft_config[tuner.trainable_adapter_name].rank_pattern}

    def restore_training_state(self, adapted: nn.Module, state: Mapping[str, Any]) -> None:
        """Go on with the averages and ranks."""
        tuner: Any = adapted.base_model
        tuner.peft_config[tuner.trainable_adapter_name].rank_pattern = state["rank_pattern"]
        device = next(adapted.parameters()).device
        for kind in _AVERAGES:
            setattr(
                tuner.rankallocator,
                kind,
                {
                    name.removeprefix(f"{kind}:"): tensor.to(device)
                    for name, tensor in state.items()
                    if name.startswith(f"{kind}:")
                },
            )

    def auxiliary_loss(self, adapted: nn.Module) -> Callable[[], Tensor]:
        """The orthogonality of P and Q (equation 4)."""
        return _orthogonality(adapted.base_model)


def _orthogonality(tuner: Any) -> Callable[[], Tensor]:
    """orth_reg_weight times the mean over all P and Q of ||P'P - I||_F and ||QQ' - I||_F, as PEFT's AdaLoRA adds it."""
    import torch

    adapter = tuner.trainable_adapter_name
    weight = tuner.peft_config[adapter].orth_reg_weight
    factors = [
        (parameter, "lora_A" in path)
        for path, parameter in tuner.model.named_parameters()
        if ("lora_A" in path or "lora_B" in path) and adapter in path.split(".")
    ]

    def distance(factor: Tensor, *, is_wide: bool) -> Tensor:
        gram = factor @ factor.T if is_wide else factor.T @ factor
        norm: Tensor = torch.linalg.norm(gram - torch.eye(len(gram), device=factor.device, dtype=factor.dtype))
        return norm

    def loss() -> Tensor:
        mean: Tensor = torch.stack([distance(factor, is_wide=is_wide) for factor, is_wide in factors]).mean()
        weighted: Tensor = mean * weight
        return weighted

    return loss
