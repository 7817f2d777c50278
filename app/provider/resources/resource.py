"""What every resource of Stripe's shares: creating, changing, retrieving and listing objects of one kind."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from app.errors import NotFoundError, UnreadableAnswerError
from app.provider.mapping.reading import UnreadableError, rows
from app.provider.objects import Page, Snapshot
from app.provider.stripe_client import NO_PARAMS, OURS, Answer, Blame, StripeClient

if TYPE_CHECKING:  # at run time the parameter types cost 20 ms and tell nobody anything
    from stripe.params import InvoiceLineItemListParams, SubscriptionItemListParams

PAGE_SIZE = 100  # the most Stripe gives at once (docs.stripe.com/api/pagination)

STRIPE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One of Stripe's resources: where it lives and how it is read."""

    path: str
    read: Callable[[Mapping[str, Any]], T]


class StripeResource:
    """The part of `StripeProvider` that the resources' own parts are made of."""

    _client: StripeClient

    async def _retrieve(self, kind: Kind[T], id: str) -> Snapshot[T]:
        return await self._snapshot(kind, await self._client.send("get", object_path(kind.path, id)))

    async def _list(self, kind: Kind[T], params: Mapping[str, object], *, blame: Blame = OURS) -> Sequence[T]:
        answer = await self._client.send("get", kind.path, params, blame=blame)
        return readable(lambda page: [kind.read(row) for row in rows(page)], answer.data, request_id=answer.request_id)

    async def _post(
        self,
        kind: Kind[T],
        params: Mapping[str, object] = NO_PARAMS,
        *,
        id: str | None = None,
        action: str = "",
        idempotency_key: str | None = None,
        blame: Blame = OURS,
    ) -> Snapshot[T]:
        """Create one, or change the one with `id`."""
        path = kind.path if id is None else object_path(kind.path, id) + action
        answer = await self._client.send("post", path, params, idempotency_key=idempotency_key, blame=blame)
        if answer.replayed:
            # Its body is what was true the first time, its Date is now: a snapshot must not mix the two.
            return await self._retrieve(kind, str(answer.data.get("id")))
        return await self._snapshot(kind, answer)

    async def _page(
        self, path: str, read: Callable[[Mapping[str, Any]], T], params: Mapping[str, object], after: str | None
    ) -> Page[T]:
        answer = await self._client.send("get", path, params if after is None else {**params, "starting_after": after})
        objects: list[T] = []
        unreadable: list[str] = []
        found = readable(rows, answer.data, request_id=answer.request_id)
        for row in found:
            try:
                objects.append(read(await whole(self._client, row)))
            except UnreadableError:
                unreadable.append(str(row.get("id")))
        more = found and answer.data.get("has_more")
        return Page(
            objects=objects, at=answer.at, next=str(found[-1].get("id")) if more else None, unreadable=unreadable
        )

    async def _snapshot(self, kind: Kind[T], answer: Answer) -> Snapshot[T]:
        data = await whole(self._client, answer.data)
        return Snapshot(object=readable(kind.read, data, request_id=answer.request_id), at=answer.at)


def object_path(path: str, id: str) -> str:
    """The address of one object. An id that Stripe can't have made is not found, and never becomes part of a URL."""
    if not STRIPE_ID.fullmatch(id):
        raise NotFoundError("Stripe knows no such object.")
    return f"{path}/{id}"


async def whole(client: StripeClient, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object of Stripe's with all it is made of: a subscription shows its first items, an invoice ten lines."""
    lines = data.get("lines")
    if data.get("object") == "invoice" and isinstance(lines, dict) and lines.get("has_more"):
        return {**data, "lines": {"data": await _lines(client, str(data.get("id")))}}
    items = data.get("items")
    if not (isinstance(items, dict) and items.get("has_more")):
        return data
    params: SubscriptionItemListParams = {"subscription": str(data.get("id")), "limit": PAGE_SIZE}
    return {**data, "items": (await client.send("get", "/v1/subscription_items", params)).data}


async def _lines(client: StripeClient, invoice: str) -> Sequence[Mapping[str, Any]]:
    params: InvoiceLineItemListParams = {"limit": PAGE_SIZE}
    found: list[Mapping[str, Any]] = []
    more = True
    while more:
        if found:
            params["starting_after"] = str(found[-1].get("id"))
        answer = await client.send("get", object_path("/v1/invoices", invoice) + "/lines", params)
        page = readable(rows, answer.data, request_id=answer.request_id)
        found += page
        more = bool(page) and answer.data.get("has_more") is True
    return found


def readable(read: Callable[[Mapping[str, Any]], T], data: Mapping[str, Any], *, request_id: str | None) -> T:
    """What an answer says. Raises UnreadableAnswerError where that can't be read."""
    try:
        return read(data)
    except UnreadableError as error:
        raise UnreadableAnswerError(
            "Stripe's answer has a shape that Billhook does not know.", provider_request_id=request_id
        ) from error
