"""How annotations are checked while testing: shapes by jaxtyping, the rest by beartype, whole
numbers serving as numbers.

Records that check their own fields are left to do so: a wrong value must meet their one line, not a
type checker's.
"""

from typing import Any

from beartype import BeartypeConf, beartype

RECORDS = (
    "surefoot.methods.",
    "surefoot.config",
    "surefoot.sgd",
    "surefoot.value",
    "surefoot.surrogates",
    "surefoot.projection",
    "surefoot.wrappers.",
)
OTHERS = ("GAE.__init__", "Networks.__init__")
strict = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Any) -> Any:
    """The function with its annotations checked at every call."""
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", "") or ""
    if name in OTHERS or (name.endswith(".__init__") and module.startswith(RECORDS)):
        return function
    return strict(function)
