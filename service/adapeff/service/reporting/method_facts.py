"""What a method's plug-in says of the weights it trained; a report or an export must not need the plug-in."""

from __future__ import annotations

from typing import Any

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Method
from adapeff.service.plugins.plugin_reference import PluginReference


def find_method(reference: PluginReference) -> Method | None:
    """The method as registered on this machine; None if its plug-in is missing."""
    try:
        return catalog.get_method(reference.name, reference.parameters)
    except AdapeffError:
        return None


def hyper_parameters(reference: PluginReference) -> dict[str, Any]:
    """All hyper-parameters with their defaults; those the user set where the plug-in is missing."""
    method = find_method(reference)
    if method is None:
        return dict(reference.parameters)
    return method.model_dump(mode="json", warnings=False)  # a default may be written as 16 where 16.0 is expected


def shares_a_model(reference: PluginReference) -> bool:
    """Whether PEFT hosts its adapters, so that `adapeff.worker.serving.Host` can add them to a model beside others."""
    method = find_method(reference)
    return hasattr(method, "peft_config") and not getattr(method, "is_wrapped", False)
