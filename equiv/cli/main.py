"""The `equiv` command: finds the verb, loads only its module, says errors in one line.

Exit codes: 0 done, 2 input that cannot be used (one `error:` line on stderr), 70 a defect of the
package, 75 interrupted with everything saved (training), 130 interrupted with Ctrl-C.
"""

import argparse
import difflib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from equiv import __version__
from equiv.errors import EquivError

VERBS: dict[str, tuple[str, str]] = {
    "train": ("equiv.cli.train", "train a potential from a recipe or straight from a data file"),
    "evaluate": ("equiv.cli.evaluate", "error table of a model on labelled structures"),
    "predict": ("equiv.cli.predict", "write energies, forces and stresses of a model to a file"),
    "relax": ("equiv.cli.relax", "relax a structure, with or without its cell"),
    "md": ("equiv.cli.md", "run molecular dynamics: NVE, Langevin or NPT"),
    "convert": ("equiv.cli.convert", "turn a mace-torch model into a model file of equiv"),
    "export": ("equiv.cli.export", "drop from a model file what sparse gates have dropped"),
    "info": ("equiv.cli.info", "show what a model file holds, and verify it"),
    "benchmark": ("equiv.cli.benchmark", "measure this package beside others on this machine"),
    "data": ("equiv.cli.data", "check data files before training on them"),
    "doctor": ("equiv.cli.doctor", "show versions, devices and extras, to paste into a report"),
}

DEFECT = 70  # EX_SOFTWARE of sysexits.h
FULL = (errno.ENOSPC, errno.EDQUOT)

EXAMPLES = """\
examples:
  equiv data check train.xyz                      what is in it, and can it be trained on?
  equiv train train.xyz                           train; every choice is made and printed
  equiv evaluate model.safetensors test.xyz       error table
  equiv md model.safetensors start.xyz -T 300     molecular dynamics

`equiv VERB --help` explains one verb."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors read like the package's own and name near misses."""

    def error(self, message: str) -> NoReturn:
        """Print one `error:` line and exit with code 2."""
        self.exit(2, f"error: {message}\ntry:   {self.prog} --help\n")

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse `arguments`; an option nobody knows is an error that names the nearest one."""
        known, unknown = self.parse_known_args(arguments)
        if not unknown:
            return known
        options = list(self._option_string_actions)
        described = []
        for word in unknown:
            near = difflib.get_close_matches(word.split("=")[0], options, n=1)
            hint = f" (did you mean {near[0]}?)" if word.startswith("-") and near else ""
            described.append(f"{word}{hint}")
        noun = "argument" if len(described) == 1 else "arguments"
        return self.error(f"unknown {noun}: {', '.join(described)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one `equiv` command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _print_what_the_terminal_can()
    show = "--traceback" in words or os.environ.get("EQUIV_TRACEBACK", "") not in ("", "0")
    try:
        return _dispatch(words)
    except EquivError as error:
        return _fail(f"error: {error}", 2, show)
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT, show)
    except BrokenPipeError:
        # The reader (`| head`) has gone: stop quietly, and keep Python from complaining again at
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.filename is not None:
            return _fail(f"error: {error.filename}: {reason}", 2, show)
        if error.errno in FULL:
            return _fail(f"error: {reason}; make room and run the same command again", 2, show)
        return _defect(error, show)
    except Exception as error:
        return _defect(error, show)


def _print_what_the_terminal_can() -> None:
    """Let a terminal or file that knows no `Å` get a `?` instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _dispatch(words: list[str]) -> int:
    """Find the verb among `words` and run it."""
    top = _top_parser()
    position = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    options = top.parse_all(words[:position])
    if options.version:
        print(f"equiv {__version__}")
        return 0
    if position == len(words):
        top.print_help(sys.stderr if words else None)
        return 2 if words else 0
    verb = words[position]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        hint = f"did you mean `equiv {near[0]}`?" if near else f"the verbs are {', '.join(VERBS)}"
        raise EquivError(f"`{verb}` is not something equiv can do; {hint}")
    module = import_module(VERBS[verb][0])
    parser = Parser(
        prog=f"equiv {verb}",
        description=(module.__doc__ or VERBS[verb][1]).strip(),
        epilog=getattr(module, "EXAMPLE", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    _add_traceback(parser)
    return int(module.run(parser.parse_all(words[position + 1 :])) or 0)


def _top_parser() -> Parser:
    width = max(map(len, VERBS))
    table = "\n".join(f"  {verb:<{width}}  {line}" for verb, (_, line) in VERBS.items())
    parser = Parser(
        prog="equiv",
        usage="equiv VERB ...",
        description="Train an E(3)-equivariant interatomic potential and use it at once.\n\n"
        f"verbs:\n{table}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    _add_traceback(parser)
    return parser


def _add_traceback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show where in the code an error came from (as does EQUIV_TRACEBACK=1)",
    )


def _fail(message: str, code: int, show: bool) -> int:
    sys.stdout.flush()
    if show:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return code


def _defect(error: Exception, show: bool) -> int:
    where = "" if show else "; run the same command with --traceback to see where"
    return _fail(
        f"error: equiv failed in a way it should not: {type(error).__name__}: {error}\n"
        f"       This is a defect of equiv{where}. Please report it with the traceback and the\n"
        "       output of `equiv doctor`.",
        DEFECT,
        show,
    )


if __name__ == "__main__":
    sys.exit(main())
