"""Gates for any torch module: the ReLUs that are sites are found while the module runs.

A mode intercepts torch's functions, so functional ReLUs count as modules do, and nothing is traced
or rewritten. Sites are the contract's: Conv [-> BatchNorm] [-> Add] -> ReLU or ReLU6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from spatialonnx.errors import ModelError, PlanError
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.plan.patterns import parse_pattern
from spatialonnx.plan.plan import PlanLike
from spatialonnx.tuning.gate import SLOPE, SiteGate

__all__ = ["attach", "detach", "mac_share"]

_CONVS = {torch.conv2d, functional.conv2d}
_NORMS = {functional.batch_norm, torch.batch_norm}
_ADDS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__}
_CLAMPS = {
    torch.clamp,
    torch.clamp_,
    torch.clip,
    torch.clip_,
    Tensor.clamp,
    Tensor.clamp_,
    Tensor.clip,
    Tensor.clip_,
    torch.clamp_min,
    torch.clamp_min_,
    Tensor.clamp_min,
    Tensor.clamp_min_,
}
_RELUS: dict[Any, int | None] = {
    functional.relu: 0,
    functional.relu_: 0,
    torch.relu: 0,
    torch.relu_: 0,
    Tensor.relu: 0,
    Tensor.relu_: 0,
    functional.relu6: 6,
    functional.hardtanh: None,
    **dict.fromkeys(_CLAMPS),
}
"""ReLUs and their upper bound: 0 for none, None where the call names it."""

_TAG = "_spatialonnx_site"
_ATTACHED = "_spatialonnx_attached"


@dataclass(eq=False)
class _Origin:
    """Where a tensor between a Conv and a ReLU comes from.

    Attributes:
        conv: Path of the Conv in the module.
        macs: MACs per output.
        order: Of the Conv's call.
        added: Whether a residual Add was passed.
        before: The same of the tensor that this one was computed from.
        readers: Functions that read the tensor.
    """

    conv: str
    macs: int
    order: int
    added: bool = False
    before: _Origin | None = None
    readers: int = 0

    def follow(self, *, added: bool = False) -> _Origin:
        """The origin of a tensor that is computed from this one."""
        return _Origin(self.conv, self.macs, self.order, self.added or added, self)

    @property
    def read_once(self) -> bool:
        """Whether nothing but the way to the ReLU reads the tensors on it."""
        return self.readers <= 1 and (self.before is None or self.before.read_once)


def attach(
    module: nn.Module, plan: PlanLike | str, *, slope: float = SLOPE
) -> Callable[[], list[str]]:
    """Puts a differentiable gate into every site of a module, in place.

    The sites are found in the first forward pass, which runs the module once more to do so.

    Args:
        module: Any network of 2-d Convs; its parameters and state dict stay as they are.
        plan: A pattern such as ``1000`` for every site; or masks, by the path of the site's Conv
            in the module or in the order of the sites, as `read_plan` gives them.
        slope: Width of the gates' sigmoid.

    Returns:
        A function that names the sites, once the module has run.

    Raises:
        ModelError: The module has gates already.
        PlanError: The pattern is none.
    """
    if hasattr(module, _ATTACHED):
        raise ModelError("the module has gates already: call detach() first")
    mask = uniform_mask(*parse_pattern(plan)[::-1]) if isinstance(plan, str) else None
    state = _Attached(module, mask if mask is not None else dict(_mapping(plan)), slope)
    object.__setattr__(module, _ATTACHED, state)
    return state.names


def detach(module: nn.Module) -> None:
    """Takes the gates out again.

    Raises:
        ModelError: The module has none.
    """
    _state(module).remove()
    object.__delattr__(module, _ATTACHED)


def mac_share(module: nn.Module) -> Tensor:
    """Share of all Conv MACs that the last forward pass computed, []; the gates get its gradients.

    Raises:
        ModelError: The module has no gates, or has not run.
    """
    return _state(module).share()


def _mapping(plan: PlanLike | str) -> Mapping[str, SiteMask]:
    assert not isinstance(plan, str)
    return plan


def _state(module: nn.Module) -> _Attached:
    state = getattr(module, _ATTACHED, None)
    if state is None:
        raise ModelError("the module has no gates: call attach() first")
    assert isinstance(state, _Attached)
    return state


class _Attached:
    """The gates of one module, and the hooks that run them."""

    def __init__(
        self, module: nn.Module, plan: SiteMask | dict[str, SiteMask], slope: float
    ) -> None:
        self._module = module
        self._plan = plan
        self._slope = slope
        self._gates: dict[str, SiteGate] | None = None
        self._mode: _Mode | None = None
        self._kept: Tensor | None = None
        self._hooks = [
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            module.register_forward_hook(self._leave, always_call=True),
        ]

    def names(self) -> list[str]:
        """Names of the sites."""
        if self._gates is None:
            raise ModelError("the sites are found in the first forward pass: run the module")
        return list(self._gates)

    def share(self) -> Tensor:
        """Share of all Conv MACs that the last pass computed."""
        if self._kept is None:
            raise ModelError("run the module before asking for its MACs")
        return self._kept

    def remove(self) -> None:
        """Removes the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, arguments: Any, names: Any) -> None:
        if self._gates is None:
            self._gates = self._make_gates(self._find_sites(arguments, names))
        self._mode = _Mode(self._paths(), self._gates)
        self._mode.__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._kept = mode.kept_share()

    def _find_sites(self, arguments: Any, names: Any) -> dict[str, float]:
        """Runs the module without gates; returns the sites with the bounds of their ReLUs."""
        was_training = {m: m.training for m in self._module.modules()}
        self._module.eval()
        mode = _Mode(self._paths(), None)
        try:
            with torch.no_grad(), mode:
                self._module.forward(*arguments, **names)
        finally:
            for part, training in was_training.items():
                part.training = training
        sites = {name: bound for name, (bound, way) in mode.sites.items() if way.read_once}
        if not sites:
            raise ModelError("the module has no site: no Conv of it reaches a ReLU")
        return sites

    def _make_gates(self, sites: dict[str, float]) -> dict[str, SiteGate]:
        masks = self._masks(list(sites))
        device = next(self._module.parameters()).device
        return {
            name: SiteGate(mask, clip_max=sites[name], slope=self._slope).to(device)
            for name, mask in masks.items()
            if not mask.is_full
        }

    def _masks(self, sites: list[str]) -> dict[str, SiteMask]:
        plan = self._plan
        if isinstance(plan, SiteMask):
            return dict.fromkeys(sites, plan)
        if plan.keys() <= set(sites):
            return plan
        if len(plan) != len(sites):
            raise PlanError(
                f"the plan has {len(plan)} sites and the module {len(sites)} ({sites[0]} ...): "
                "name masks by the paths of the Convs"
            )
        return dict(zip(sites, plan.values(), strict=True))

    def _paths(self) -> dict[int, str]:
        """Paths of the Convs by the identity of their weights."""
        return {
            id(parameter): name.rpartition(".")[0] or name
            for name, parameter in self._module.named_parameters()
        }


class _Mode(TorchFunctionMode):
    """Follows the Convs' outputs to their ReLUs; with gates, computes those ReLUs."""

    def __init__(self, paths: dict[int, str], gates: dict[str, SiteGate] | None) -> None:
        super().__init__()
        self.sites: dict[str, tuple[float, _Origin]] = {}
        self._paths = paths
        self._gates = gates
        self._macs: dict[str, int] = {}
        self._calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CONVS:
            return self._conv(func, args, kwargs)
        ways = [way for value in args[:2] if (way := getattr(value, _TAG, None)) is not None]
        if func in _RELUS and ways:
            return self._relu(func, args, kwargs, ways[0])
        result = func(*args, **kwargs)
        if ways and isinstance(result, Tensor):
            for way in ways:
                way.readers += 1
            _mark(result, _next(func, ways))
        return result

    def kept_share(self) -> Tensor:
        """Share of all Conv MACs that were computed."""
        total = sum(self._macs.values())
        saved = torch.zeros(())
        for name, gate in (self._gates or {}).items():
            if gate.kept is not None and name in self._macs:
                saved = saved + (1 - gate.kept.cpu()) * (self._macs[name] / total)
        return 1 - saved

    def _conv(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        self._check_channels(self._paths.get(id(weight), ""), len(weight))
        each = math.prod(weight.shape[1:])
        name = self._paths.get(id(weight), f"conv{self._calls}")
        self._macs[name] = self._macs.get(name, 0) + each * (result.numel() // len(result))
        _mark(result, _Origin(name, each, self._calls))
        self._calls += 1
        return result

    def _check_channels(self, name: str, channels: int) -> None:
        gate = (self._gates or {}).get(name)
        if gate is not None and gate.bits.shape[0] not in (1, channels):
            raise PlanError(
                f"the mask of {name} has {gate.bits.shape[0]} channels, the Conv {channels}: the "
                "plan is of another network"
            )

    def _relu(self, func: Any, args: Any, kwargs: dict[str, Any], way: _Origin) -> Any:
        clip_max = _clip_max(func, args, kwargs)
        way.readers += 1
        gate = (self._gates or {}).get(way.conv)
        if clip_max is None or gate is None:
            if clip_max is not None:
                self.sites.setdefault(way.conv, (clip_max, way))
            result = func(*args, **kwargs)
            _mark(result, None)  # in place, it is the tensor before the ReLU
            return result
        return gate(args[0])


def _next(func: Any, ways: list[_Origin]) -> _Origin | None:
    """Where a function's result comes from; None where the way to a ReLU ends."""
    if func in _NORMS and not ways[0].added:
        return ways[0].follow()
    if func in _ADDS and not any(way.added for way in ways):
        return max(ways, key=lambda way: (way.macs, -way.order)).follow(added=True)
    return None


def _mark(tensor: Tensor, way: _Origin | None) -> None:
    if way is not None:
        setattr(tensor, _TAG, way)
    elif hasattr(tensor, _TAG):
        delattr(tensor, _TAG)


def _clip_max(func: Any, args: Any, kwargs: dict[str, Any]) -> float | None:
    """Upper bound of a ReLU; None where the call is none, for example a hardtanh from -1."""
    bound = _RELUS[func]
    if bound is not None:
        return float(bound) or math.inf
    names = ("min", "max") if func in _CLAMPS else ("min_val", "max_val")
    limits = dict.fromkeys(names) if func in _CLAMPS else dict(zip(names, (-1.0, 1.0), strict=True))
    limits |= dict(zip(names, args[1:], strict=False))
    limits |= {name: kwargs[name] for name in names if name in kwargs}
    low, high = (limits[name] for name in names)
    if any(isinstance(limit, Tensor) for limit in (low, high)) or low != 0:
        return None
    if high is None:
        return math.inf
    return float(high) if high > 0 else None
