"""Options as people type them: `key=value`, or as most programs take them, `--key=value`, `--key value`, `--flag`."""

from __future__ import annotations

import re

from recipes.common.option_errors import OptionError


def as_overrides(arguments: list[str]) -> list[str]:
    """Arguments as `key=value` strings.

    `--key` takes the next argument as its value, unless that is an option itself (`--other`, `other=value`) or there
    is none: then it is a flag that is switched on. A hyphen inside a name stands for an underscore.

    Raises:
        OptionError: an option has no name.
    """
    overrides, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            overrides.append(argument)
            continue
        key, separator, value = argument[2:].partition("=")
        if not key:
            raise OptionError(f"The argument {argument!r} names no option. Write for example optim.lr=1e-3.")
        if not separator:
            value = rest.pop(0) if rest and not _is_option(rest[0]) else "true"
        overrides.append(f"{key.replace('-', '_')}={value}")
    return overrides


def _is_option(argument: str) -> bool:
    return argument.startswith("--") or re.match(r"[A-Za-z_][\w.]*=", argument) is not None
