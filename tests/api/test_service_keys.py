"""Service keys: scopes, ends, and whom they speak for."""

from datetime import timedelta

import httpx
import pytest
from serving import API, Bearer, CreateKey, bearer
from sqlalchemy import select, text, update

from app.db import Sessions
from app.errors import InvalidRequestError
from app.models import ApiKey, AuditRow
from app.services import identity
from app.values import utcnow

STATUS = f"{API}/subscription/status"
ADA = {"user_id": "ada"}


async def test_a_key_speaks_for_the_user_it_names(client: httpx.AsyncClient, create_key: CreateKey) -> None:
    key = await create_key("billing:read")
    response = await client.get(STATUS, params=ADA, headers=key)
    assert response.status_code == 200


async def test_a_key_must_name_a_user(client: httpx.AsyncClient, create_key: CreateKey) -> None:
    response = await client.get(STATUS, headers=await create_key("billing:read"))
    assert response.status_code == 422
    assert response.json()["errors"][0]["param"] == "user_id"


async def test_a_key_names_the_user_of_a_check_in_the_body(client: httpx.AsyncClient, create_key: CreateKey) -> None:
    key = await create_key("billing:read")
    response = await client.post(
        f"{API}/entitlements/check", json={"feature": "community_support", "customer": "ada"}, headers=key
    )
    assert (response.status_code, response.json()["allowed"]) == (200, True)


async def test_a_key_without_the_scope_is_refused(client: httpx.AsyncClient, create_key: CreateKey) -> None:
    key = await create_key("usage:write", "credits:read")
    response = await client.get(STATUS, params=ADA, headers=key)
    assert (response.status_code, response.json()["code"]) == (403, "permission_denied")


async def test_reading_does_not_allow_writing(client: httpx.AsyncClient, create_key: CreateKey) -> None:
    response = await client.post(f"{API}/subscription/cancel", params=ADA, headers=await create_key("billing:read"))
    assert response.status_code == 403


async def test_operators_lists_need_the_operator_scope(
    client: httpx.AsyncClient, create_key: CreateKey, ada: Bearer
) -> None:
    reader, operator = await create_key("billing:read"), await create_key("operator")
    for path in (f"{API}/events", f"{API}/audit"):
        assert (await client.get(path, headers=ada)).status_code == 403
        assert (await client.get(path, headers=reader)).status_code == 403
        assert (await client.get(path, headers=operator)).status_code == 200


async def test_a_user_naming_another_finds_nobody(client: httpx.AsyncClient, ada: Bearer) -> None:
    assert (await client.get(STATUS, params={"user_id": "grace"}, headers=ada)).status_code == 404
    assert (await client.get(STATUS, params=ADA, headers=ada)).status_code == 200


async def test_a_revoked_key_opens_nothing(
    client: httpx.AsyncClient, create_key: CreateKey, sessions: Sessions
) -> None:
    key = await create_key("billing:read")
    async with sessions.begin() as session:
        row = (await session.scalars(select(ApiKey))).one()
        await identity.revoke_key(session, row.id, actor="cli")
        await identity.revoke_key(session, row.id, actor="cli")
    response = await client.get(STATUS, params=ADA, headers=key)
    assert (response.status_code, response.json()["code"]) == (401, "invalid_key")
    async with sessions() as session:
        actions = (await session.scalars(select(AuditRow.action).order_by(AuditRow.id))).all()
    assert actions == ["key.created", "key.revoked"]


async def test_an_expired_key_opens_nothing(
    client: httpx.AsyncClient, create_key: CreateKey, sessions: Sessions
) -> None:
    key = await create_key("billing:read")
    async with sessions.begin() as session:
        await session.execute(update(ApiKey).values(expires_at=utcnow() - timedelta(seconds=1)))
    assert (await client.get(STATUS, params=ADA, headers=key)).status_code == 401


async def test_a_made_up_key_opens_nothing(client: httpx.AsyncClient) -> None:
    for token in ("bk_", "bk_x", "bk_" + "0" * 33, "bk_\x7f" + "0" * 32):
        assert (await client.get(STATUS, params=ADA, headers=bearer(token))).status_code == 401, token


async def test_a_mistyped_key_never_reaches_postgres(sessions: Sessions, create_key: CreateKey) -> None:
    token = (await create_key("billing:read"))["Authorization"].removeprefix("Bearer ")
    mistyped = token[:-1] + ("0" if token[-1] != "0" else "1")
    async with sessions() as session:
        assert await identity.is_valid_key(session, token)
        await session.rollback()
        assert not await identity.is_valid_key(session, mistyped)
        assert not session.in_transaction()


async def test_neither_table_nor_audit_log_holds_the_key(sessions: Sessions, create_key: CreateKey) -> None:
    token = (await create_key("operator"))["Authorization"].removeprefix("Bearer ")
    async with sessions() as session:
        for table in ("api_keys", "audit_log"):
            rows = (await session.scalars(text(f"SELECT row_to_json(t)::text FROM {table} t"))).all()  # noqa: S608 - ours
            assert len(rows) == 1
            assert token[3:20] not in rows[0]


async def test_unknown_scopes_are_refused(sessions: Sessions) -> None:
    async with sessions() as session:
        for scopes in ((), ("billing:admin",), ("operator", "root")):
            with pytest.raises(InvalidRequestError):
                await identity.create_key(session, name="x", scopes=scopes, actor="cli")
