"""The command line. This file answers what needs no jax: help, versions, wrong names; the rest is a
file a command."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

# One BLAS thread is the faster choice for small matrices, and its bits are part of a run. Before
# NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

COMMANDS = {
    "train": "train a policy: surefoot train METHOD --env ID",
    "resume": "go on with a run as if it had never stopped: surefoot resume RUN",
    "compare": "methods side by side over seeds: surefoot compare METHOD... --env ID",
    "reproduce": "a paper's table beside ours: surefoot reproduce PAPER ITEM",
    "eval": "score a run over whole episodes: surefoot eval RUN",
    "certify": "check the certificate of a run, in float64: surefoot certify RUN",
    "watch": "see a run act: a window, or a video where there is no display: surefoot watch RUN",
    "plot": "pictures of a run and of its memory of policies: surefoot plot RUN",
    "report": "one page of runs or of a comparison: surefoot report RUN... | COMPARE",
    "list": "methods, envs, presets or runs: surefoot list methods",
    "doctor": "what is installed, what is missing and the line that installs it",
}

EXIT_DONE, EXIT_USAGE, EXIT_FAULT, EXIT_GUARD, EXIT_INTERRUPTED = 0, 2, 3, 4, 130


def overview() -> str:
    """The text of `surefoot --help`."""
    from surefoot import __version__

    width = max(map(len, COMMANDS))
    lines = [
        f"surefoot {__version__}: trust-region policy optimisation",
        "",
        "usage: surefoot COMMAND ...",
        "",
    ]
    lines += [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "surefoot COMMAND --help says more. Exit codes: 0 done, 2 wrong usage, "
        "3 environment or disk, 4 stopped by the guard, or not begun (reproduce --max-hours), "
        "130 interrupted.",
    ]
    return "\n".join(lines)


def dispatch(args: list[str]) -> int:
    """Help and version here, a command in its own file. Raises `UsageError` for a name that is no
    command."""
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return EXIT_DONE
    if args[0] in ("-V", "--version"):
        from surefoot import __version__

        print(f"surefoot {__version__}")
        return EXIT_DONE
    from surefoot.checks import UsageError
    from surefoot.envs import nearest

    name = args[0]
    if name not in COMMANDS:
        raise UsageError(
            f"no command is called {name!r}{nearest(name, COMMANDS)}; "
            f"there are {', '.join(COMMANDS)}"
        )
    return importlib.import_module(f"surefoot.cli.{name}_").run(args[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. What cannot be used is one line on standard error."""
    args = list(sys.argv[1:] if argv is None else argv)
    from surefoot.checks import EnvironmentFault, UsageError

    try:
        return dispatch(args)
    except UsageError as error:
        print(f"surefoot: {error}", file=sys.stderr)
        return EXIT_USAGE
    except EnvironmentFault as error:
        print(f"surefoot: {error}", file=sys.stderr)
        return EXIT_FAULT
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (or the interpreter complains once more at its end)
        return EXIT_DONE
    except OSError as error:
        print(f"surefoot: {error.filename or 'disk'}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAULT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
