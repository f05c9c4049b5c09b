"""The errors that end a command, each with its exit code and the way on.

    XarError                     exit 1: it was tried and has no valid result
    ├── UserError                exit 2: the user's input was wrong
    │   ├── ConfigError          a bad value in a flag, the environment, xar.toml or env.toml
    │   ├── UnknownName          no environment, preset, model, run or job of that name
    │   └── PatchRefused         a patch that touches protected files, or does not apply
    ├── ServiceMissing           exit 3: an engine, a model, a device or a data set is not there
    │   ├── CapabilityMissing    this sandbox back end cannot do what was asked
    │   ├── ModelUnavailable     no model answers: unreachable, unauthorised, or its file is missing or damaged
    │   └── DataUnavailable      the environment's data set could not be prepared
    ├── SandboxError             the sandbox failed, not the command in it; the work may be tried again
    │   ├── SandboxStartError    it did not start
    │   └── SandboxLost          it went away
    ├── BudgetReached            the time that the user allowed is over; what was done so far is recorded
    ├── EvaluationError          the trusted evaluator itself failed (class INFRA, never the idea's fault)
    ├── StoreError               the run's records cannot be written or read (a full disk, a torn database)
    └── Interrupted              exit 130: Ctrl-C, or a request to cancel

A command that fails inside a sandbox is a value (``ExecResult``), never one of these.
"""

from __future__ import annotations


class XarError(Exception):
    """Base of all expected errors: one line for a person, and a hint that says what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(XarError):
    """The user's input was wrong."""

    exit_code = 2


class ConfigError(UserError):
    """A value in a flag, the environment, xar.toml or env.toml is not allowed."""


class UnknownName(UserError):
    """There is no environment, preset, model, run or job of that name."""


class PatchRefused(UserError):
    """The patch touches protected files, holds binaries or links, or does not apply to the base."""


class ServiceMissing(XarError):
    """Something that the command needs is not there."""

    exit_code = 3


class CapabilityMissing(ServiceMissing):
    """This sandbox back end cannot do what was asked of it."""


class ModelUnavailable(ServiceMissing):
    """No model answers: unreachable, unauthorised, or its file is missing or damaged."""


class DataUnavailable(ServiceMissing):
    """The environment's data set could not be prepared."""


class SandboxError(XarError):
    """The sandbox failed, not the command in it."""


class SandboxStartError(SandboxError):
    """The sandbox did not start."""


class SandboxLost(SandboxError):
    """The sandbox went away while it was in use."""


class BudgetReached(XarError):
    """The time that the user allowed is over; what was done so far is recorded."""


class EvaluationError(XarError):
    """The trusted evaluator failed: nobody's idea is to blame, and there is no score."""


class StoreError(XarError):
    """The run's records cannot be written or read."""


class Interrupted(XarError):
    """The user pressed Ctrl-C or asked for a cancellation; what was done so far is recorded."""

    exit_code = 130
