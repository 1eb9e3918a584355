"""The errors a caller may want to catch; no message is decided here.

DistillscaleError            anything this package refuses, in one sentence
├── InputError               a value, file or option from outside breaks a rule  (exit 2)
├── InfeasibleError          the request is well formed, but no plan satisfies it (exit 2)
└── FitError                 a fit that the caller insisted on is not usable      (exit 3)
"""

__all__ = ["DistillscaleError", "FitError", "InfeasibleError", "InputError"]


class DistillscaleError(ValueError):
    """Base of every error raised on purpose; its text is one line: what, rule, given, remedy."""


class InputError(DistillscaleError):
    """Something from outside (an argument, an option, a file) breaks a rule that the message names."""


class InfeasibleError(DistillscaleError):
    """Nothing satisfies the request, for example a budget too small to train anything."""


class FitError(DistillscaleError):
    """A fit is not usable and `Fit.require` was called on it."""
