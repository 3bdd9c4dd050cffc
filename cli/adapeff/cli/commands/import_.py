"""`adapeff import`: take over the finished jobs of an archive."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.messages import note
from adapeff.cli.options import Json
from adapeff.service.errors import DataError
from adapeff.service.store.archive import LONGEST_LINE
from adapeff.service.store.archive_import import Imported, ImportedFiles, import_lines


def import_archives(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Archives of `adapeff export --what archive`.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be stored.")] = False,
    as_json: Json = False,
) -> None:
    """Take over the finished jobs of archives, with all their results, from other databases.

    Jobs that have finished here already are left alone, so importing twice changes nothing. An archive is stored
    completely or not at all. Sweeps come with their jobs.

    Examples:

        adapeff import demo.gz --dry-run

        adapeff import host1.gz host2.gz
    """
    total = Imported(0, 0, 0)
    invocation = Invocation.of(context)
    with invocation.database() as database:
        for file in files:
            with ImportedFiles(invocation.settings.artifacts) as stored, database.session() as session:
                found = import_lines(session, _lines(file), str(file), stored)
                if dry_run:
                    session.rollback()
                    stored.discard()
            note(f"{file}: {_describe(found, dry_run=dry_run)}")
            total = Imported(total.new + found.new, total.known + found.known, total.busy + found.busy)
    if as_json:
        print(json.dumps({**asdict(total), "stored": not dry_run}))


def _lines(file: Path) -> Iterator[str]:
    """The lines of a gzipped file.

    Raises:
        DataError: if it cannot be read or is damaged.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            while line := stream.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    raise DataError(f"{file} has a line of more than {LONGEST_LINE:,} characters; it is no archive")
                yield line
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file} is damaged or incomplete ({error}); copy or export it again") from error


def _describe(found: Imported, *, dry_run: bool) -> str:
    busy = f", {found.busy} running here" if found.busy else ""
    return f"{found.new} jobs {'would be ' if dry_run else ''}new, {found.known} already here{busy}"
