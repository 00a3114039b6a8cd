"""Which of the listed videos a run takes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from itertools import islice

from preprocess.errors import DataError
from preprocess.records import Listing


def select(
    listing: Listing, *, splits: Collection[str] = (), limit: int | None = None, max_missing: float = 1.0
) -> Listing:
    """A listing of some of its records, in the same order.

    Of ``splits`` only, where some are named. With a ``limit`` so many of the videos that are there, the ones whose
    hashed keys come first, so that they are of many classes, and none that are missing.

    Raises DataError if there are no such records, no file of any was found, or more than the share ``max_missing``
    of them cannot be taken.
    """
    records = [record for record in listing.records if not splits or record.split in splits]
    if not records:
        of = f" in {' or '.join(splits)}" if splits else ""
        raise DataError(f"{listing.root}: the {listing.kind} annotations list no videos{of}")
    missing = [record for record in records if record.problem]
    if len(missing) == len(records):
        examples = "; ".join(record.problem for record in islice(missing, 3))
        raise DataError(
            f"none of the {len(records)} listed videos is in {listing.root} ({examples}, ...): see --videos"
        )
    # Not as a product: 0.29 * 100 is less than 29.
    if len(missing) / len(records) > max_missing:
        raise DataError(
            f"{len(missing)} of the {len(records)} listed videos are missing in {listing.root}, more than "
            f"--max-missing {max_missing:g} allows: {missing[0].problem}, ... (--dry-run lists them)"
        )
    asked = {"split": sorted(splits), "limit": limit}
    options = listing.options | {name: value for name, value in asked.items() if value}
    if limit is None:
        return replace(listing, records=records, options=options)
    first = sorted(
        (record for record in records if not record.problem),
        key=lambda record: hashlib.sha256(f"{record.split}/{record.key}".encode()).digest(),
    )
    chosen = {(record.split, record.key) for record in first[:limit]}
    taken = [record for record in records if not record.problem and (record.split, record.key) in chosen]
    return replace(listing, records=taken, options=options)
