"""Every error a user can meet, with the exit code the command line gives it.

A message says what was expected, what was found, where, and what to do. Codes follow sysexits.h where it has one.
"""


class VoorwerpError(Exception):
    """Base of all errors that are the caller's or the environment's, not a defect of voorwerp."""

    exit_code = 70


class ConfigError(VoorwerpError):
    """A job config is wrong: unknown key, wrong type, value out of range, missing section."""

    exit_code = 2


class DataError(VoorwerpError):
    """An input as a whole cannot be used: a missing column, duplicate ids, broken weights (a bad row is a reject)."""

    exit_code = 65


class InputNotFoundError(VoorwerpError):
    """A named input does not exist."""

    exit_code = 66


class PreflightError(VoorwerpError):
    """A job would not fit: disk, memory, time or money, or too many rejects in a sample. No machine was asked for."""

    exit_code = 69


class WorkersLostError(VoorwerpError):
    """Workers die again and again; the run can be resumed once the cause is found."""

    exit_code = 71


class OutputError(VoorwerpError):
    """An output already belongs to another run, or cannot be created."""

    exit_code = 73


class StoreError(VoorwerpError):
    """Local disk or object store failed or refused; the run can be resumed."""

    exit_code = 74


class BusyError(VoorwerpError):
    """Another run works on this output; try again when it has ended."""

    exit_code = 75


class IntegrityError(VoorwerpError):
    """Something on disk is not what its manifest says: changed, truncated, missing, of another format or parent."""

    exit_code = 76


class NoEncoderError(IntegrityError):
    """The encoder that a release was made with is not there, or another one is: nothing new can be compared with it."""
