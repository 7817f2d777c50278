"""The description of the API: valid, complete, and true about errors."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from serving import API, PROBLEM

from app.main import openapi_document


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def resolved(document: dict[str, Any], thing: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in thing:
        return thing
    for part in thing["$ref"].removeprefix("#/").split("/"):
        document = document[part]
    return document


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


async def test_it_is_what_the_service_serves(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    assert (await client.get("/openapi.json")).json() == document


def test_it_does_not_depend_on_the_environment(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PREFIX", "/elsewhere")
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret:secret@secret/secret")
    assert openapi_document() == document


def test_operations_have_names_texts_and_known_tags(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names) > 15
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= tags, name
    assert tags == {tag for _, operation in operations(document) for tag in operation["tags"]}


WITH_MEMBERS = {(f"POST {API}/charges", "402")}
"""Problems that say more."""


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert {"500", "503"} <= set(errors), name
        for status, answer in errors.items():
            found = resolved(document, answer)
            assert set(found["content"]) == {PROBLEM}, (name, status)
            schema = resolved(document, found["content"][PROBLEM]["schema"])
            if schema["title"] != "Problem":
                assert (name, status) in WITH_MEMBERS
            assert schema["properties"].keys() >= document["components"]["schemas"]["Problem"]["properties"].keys()
            assert found["description"]
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])


def test_every_field_and_parameter_is_explained(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field, what in schema.get("properties", {}).items():
            assert what.get("description") or "$ref" in what, f"{name}.{field}"
    for name, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (name, parameter["name"])


def test_writes_offer_an_idempotency_key(document: dict[str, Any]) -> None:
    writes = [
        (name, operation)
        for name, operation in operations(document)
        if not name.startswith("GET ") and operation["tags"] != ["Webhooks"] and name != f"POST {API}/credits/check"
    ]
    assert len(writes) >= 5
    for name, operation in writes:
        assert any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"])
        # A charge waits for another with its key.
        assert ("409" in operation["responses"]) == (name != f"POST {API}/charges")


def test_lists_tell_of_the_next_page(document: dict[str, Any]) -> None:
    for path in ("invoices", "events", "audit"):
        operation = document["paths"][f"{API}/{path}"]["get"]
        assert "Link" in operation["responses"]["200"]["headers"]
        assert operation["responses"]["200"]["content"]["application/json"]["schema"]["type"] == "array"


def test_decimals_are_numbers(document: dict[str, Any]) -> None:
    invoice = document["components"]["schemas"]["InvoiceRead"]["properties"]
    assert invoice["amount_due"]["type"] == "number"
    assert invoice["amount_due_minor"]["type"] == "integer"


def test_the_webhook_is_described_under_each_of_its_names(document: dict[str, Any]) -> None:
    for path in (f"{API}/webhook", f"{API}/webhooks/stripe", "/webhooks/stripe"):
        operation = document["paths"][path]["post"]
        assert operation["security"] == []
        assert {"200", "400", "413", "503"} <= set(operation["responses"])
        assert "429" not in operation["responses"]
