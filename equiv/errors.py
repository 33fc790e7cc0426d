"""Errors that a user can act on.

Every one says what was looked at, what was expected, what came and what to do about it. The
command line prints them as one `error:` line and exits with code 2; anything else that escapes is
a defect of the package.
"""


class EquivError(ValueError):
    """Input, file or option that cannot be used as given."""


class ModelFileError(EquivError):
    """A model file that is damaged, foreign, too new, or not to be trusted."""


class DataError(EquivError):
    """Structures or labels that cannot be used for what was asked."""


class RecipeError(EquivError):
    """A training recipe with unknown keys or values that cannot be used."""


class UnknownElementError(EquivError):
    """A structure holds elements that the model was not trained on."""
