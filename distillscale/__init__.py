"""Train it or distill it? Distillation scaling laws made practical. Names only: importing this loads nothing else.

Each public name is loaded with its module when it is first asked for, so that `distillscale --help` starts without
NumPy and nothing here ever starts torch. docs/reference.md lists the names.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import published
    from .allocate import Limits, allocate
    from .answer import Plan
    from .arch import Arch, forward_flops
    from .breakeven import BreakEven, break_even
    from .compare import compare
    from .cost import Scenario
    from .errors import DistillscaleError, FitError, InfeasibleError, InputError
    from .fit import Fit, bootstrap, fit
    from .hardware import compute
    from .laws import DistillationLaw, SupervisedLaw
    from .lawset import LawSet
    from .plan import frontier, plan
    from .predict import predict
    from .runs import RunTable, read
    from .teachers import OwnedTeacher, rank_teachers

__version__ = "0.1.0"

__all__ = [
    "Arch",
    "BreakEven",
    "DistillationLaw",
    "DistillscaleError",
    "Fit",
    "FitError",
    "InfeasibleError",
    "InputError",
    "LawSet",
    "Limits",
    "OwnedTeacher",
    "Plan",
    "RunTable",
    "Scenario",
    "SupervisedLaw",
    "allocate",
    "bootstrap",
    "break_even",
    "compare",
    "compute",
    "fit",
    "forward_flops",
    "frontier",
    "plan",
    "predict",
    "published",
    "rank_teachers",
    "read",
]

_NAMES_IN = {
    "allocate": ("Limits", "allocate"),
    "answer": ("Plan",),
    "arch": ("Arch", "forward_flops"),
    "breakeven": ("BreakEven", "break_even"),
    "compare": ("compare",),
    "cost": ("Scenario",),
    "errors": ("DistillscaleError", "FitError", "InfeasibleError", "InputError"),
    "fit": ("Fit", "bootstrap", "fit"),
    "hardware": ("compute",),
    "laws": ("DistillationLaw", "SupervisedLaw"),
    "lawset": ("LawSet",),
    "plan": ("frontier", "plan"),
    "predict": ("predict",),
    "runs": ("RunTable", "read"),
    "teachers": ("OwnedTeacher", "rank_teachers"),
}
_HOME = {name: module for module, names in _NAMES_IN.items() for name in names}


class _Package(ModuleType):
    """Keeps `distillscale.plan` the function: importing the module of the same name would put the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name == "published":
        return import_module(".published", __name__)
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


sys.modules[__name__].__class__ = _Package
