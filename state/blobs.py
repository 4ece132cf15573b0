"""The claim-check store: bodies too large for a row of the transcript, by the hash of their content."""

from __future__ import annotations

import hashlib

from state.pool import Connection, Database
from workflows.contracts.errors import HoldfastError


class BlobMissingError(HoldfastError):
    """A blob that a row claims is not in the store."""


async def put(connection: Connection | Database, body: bytes) -> str:
    """Keep a body and return its id; the same body is kept once."""
    blob_id = hashlib.sha256(body).hexdigest()
    await connection.execute("insert into blobs (blob_id, body) values ($1, $2) on conflict do nothing", blob_id, body)
    return blob_id


async def get(database: Database, blob_id: str) -> bytes:
    """The body behind an id.

    Raises:
        BlobMissingError: no such blob.
    """
    body: bytes | None = await database.fetchval("select body from blobs where blob_id = $1", blob_id)
    if body is None:
        raise BlobMissingError(f"Blob {blob_id} is not in the store.")
    return body
