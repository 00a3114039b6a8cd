"""The group of all commands: errors end in one line, the help is in sections."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from preprocess.errors import V4dError


class CommandGroup(click.Group):
    """A group whose commands end in one line, not a traceback: exit code 2 for usage, 1 for data.

    ``sections`` are the headings under which its help lists commands, in that order. What is in none comes last.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def invoke(self, context: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names may have letters that the locale has not.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(context)
        except (V4dError, OSError) as error:
            # Who reads the output has enough of it, as head does: click ends without a word.
            if context.params.get("debug") or isinstance(error, BrokenPipeError):
                raise
            click.echo(f"v4d: {error}", err=True)
            context.exit(error.exit_code if isinstance(error, V4dError) else 1)
        except KeyboardInterrupt:
            click.echo("v4d: stopped", err=True)
            context.exit(130)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, a section after the other, each with the first sentence of its help."""
        width = max(map(len, self.commands), default=0)
        placed = {name for names in self.sections.values() for name in names}
        others = [name for name in self.list_commands(context) if name not in placed]
        for heading, names in [*self.sections.items(), ("More", others)]:
            rows = [
                (name.ljust(width), _first_sentence(self.commands[name])) for name in names if name in self.commands
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def _first_sentence(command: click.Command) -> str:
    # Wrapped and not cut: click's own limit is 45 letters.
    return command.get_short_help_str(limit=1000)
