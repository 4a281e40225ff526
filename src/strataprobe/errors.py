"""Errors that the user can mend. Each is one sentence that says what is wrong, where, and the fix.

The command line prints the sentence alone and exits with status 2; anything else that escapes is a bug (status 1).
"""


class StrataprobeError(Exception):
    """Base of every error that the user can mend."""


class RecipeError(StrataprobeError):
    """A recipe is unknown, cannot be read, or does not describe a concept that can be probed."""


class DataError(StrataprobeError):
    """A text file, or a row of one, is not what the stage needs."""


class ModelError(StrataprobeError):
    """A model or its tokenizer cannot be reached, read, or used for reading activations."""


class LoginError(ModelError):
    """The model hub wants a login, or the model's licence accepted."""


class NonFiniteError(ModelError):
    """A model gave values that are not finite: whatever was read in that dtype is of no use."""


class StageError(StrataprobeError):
    """A stage folder is incomplete, damaged, or was made from something else."""


class ProbeError(StrataprobeError):
    """A probe is missing, damaged, or does not belong to the model, layer or readout it is used on."""


class OptionError(StrataprobeError):
    """An option has a value that cannot be used."""


class BackendError(StrataprobeError):
    """The server or model that was to write texts is not there, or stopped answering."""
