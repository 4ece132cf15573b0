"""Search attributes of a namespace, through the operator API: it works on a database file that exists already, too."""

from __future__ import annotations

from collections.abc import Mapping

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from devstack.errors import DevStackError


def wire_type(kind: str) -> IndexedValueType.ValueType:
    """Temporal's number for a type's name, such as `Keyword`."""
    return IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{kind.upper()}")


async def missing(client: Client, wanted: Mapping[str, str]) -> dict[str, str]:
    """Which of the wanted attributes the namespace lacks. Raises DevStackError for one of another type."""
    found = (
        await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    ).custom_attributes
    for name, kind in wanted.items():
        if name in found and found[name] != wire_type(kind):
            raise DevStackError(
                f"the namespace {client.namespace} has a search attribute {name} that is not a {kind}: "
                "remove it there, or use another namespace"
            )
    return {name: kind for name, kind in wanted.items() if name not in found}


async def ensure(client: Client, wanted: Mapping[str, str]) -> list[str]:
    """Create the wanted attributes that are missing, as name → type; the names of the new ones. Safe to run at once."""
    lacking = await missing(client, wanted)
    if not lacking:
        return []
    request = AddSearchAttributesRequest(namespace=client.namespace)
    for name, kind in lacking.items():
        request.search_attributes[name] = wire_type(kind)
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS and await missing(client, wanted):
            raise DevStackError(f"search attributes could not be created: {error.message}") from error
    return list(lacking)
