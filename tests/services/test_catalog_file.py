"""plans.yaml: every mistake is told with where it is and what was meant."""

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from app.services.catalog import Catalog, Terms
from app.services.plans_file import CatalogError, load, schema

ROOT = Path(__file__).parents[2]

WHOLE = """\
currency: usd
plans:
  free:
    name: Free
    amount: 0
  pro:
    name: Pro
    amount: 9900
    other_prices: {year: 99000}
  tokyo: {name: Tokyo, amount: 2900, currency: jpy}
  kuwait: {name: Kuwait, amount: 12340, currency: kwd}
meters:
  api_calls: {event_name: calls}
packs:
  starter: {name: Starter, amount: 500, uses: 20, expires_days: 365}
default_plan: free
access: {active: grant}
"""


def read(tmp_path: Path, text: str) -> Catalog:
    path = tmp_path / "plans.yaml"
    path.write_text(text)
    return load(path)


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(CatalogError) as raised:
        read(tmp_path, text)
    return str(raised.value).replace(f"{tmp_path}/plans.yaml:", "").splitlines()


def test_a_file_is_read_with_what_it_implies(tmp_path: Path) -> None:
    catalog = read(tmp_path, WHOLE)
    assert catalog.plans["pro"].terms == (
        Terms("billhook_pro", 9900, "usd", "month"),
        Terms("billhook_pro.year", 99000, "usd", "year"),
    )
    assert catalog.plans["tokyo"].terms == (Terms("billhook_tokyo", 2900, "jpy", "month"),)
    assert catalog.packs["starter"].terms == (Terms("billhook_starter", 500, "usd", None),)
    assert (catalog.meters["api_calls"].name, catalog.meters["api_calls"].aggregation) == ("Api calls", "sum")
    assert [sold.key for sold in catalog.sold] == ["pro", "tokyo", "kuwait", "starter"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("amount: 9900", "amount: 99.00", "8:13: plans.pro.amount: Input should be a valid integer"),
        ("amount: 9900", "amount: '9900'", "8:13: plans.pro.amount: Input should be a valid integer"),
        ("amount: 9900", "amount: true", "8:13: plans.pro.amount: Input should be a valid integer"),
        ("amount: 9900", "amuont: 9900", "8:5: plans.pro.amuont: unknown key; did you mean `amount`?"),
        ("amount: 9900", "key: gold", "8:5: plans.pro.key: unknown key"),
        ("amount: 9900", "amount: 9900\n    amount: 9", "9:5: plans.pro.amount: stands here twice, first in line 8"),
        ("  pro:", "  free:", "6:3: plans.free: stands here twice, first in line 3"),
        ("  pro:", "  Pro:", "6:3: plans.Pro: this can't be a key: String should match pattern"),
        ("    name: Pro\n", "", "6:3: plans.pro.name: is missing"),
        ("year: 99000", "fortnight: 9", "9:20: plans.pro.other_prices.fortnight: this can't be a key"),
        ("year: 99000", "month: 9", "9:19: plans.pro.other_prices: The price per month is the plan's `amount`"),
        ("amount: 9900", "amount: 0", "9:19: plans.pro.other_prices: A free plan has no other prices"),
        ("amount: 12340", "amount: 12345", "11:34: plans.kuwait.amount: In kwd, Stripe only takes multiples of 10"),
        (
            "2900, currency: jpy",
            "2950, currency: isk",
            "10:32: plans.tokyo.amount: In isk, Stripe only takes multiples of 100",
        ),
        (
            "2900, currency: jpy",
            "2901, currency: ugx",
            "10:32: plans.tokyo.amount: In ugx, Stripe only takes multiples of 100",
        ),
        ("currency: jpy", "currency: YEN", "10:48: plans.tokyo.currency: String should match pattern"),
        ("currency: usd", "currency: dollars", "1:11: currency: String should match pattern"),
        ("currency: usd\n", "", "1:1: currency: is missing"),
        ("packs:", "pakcs:", "14:1: pakcs: unknown key; did you mean `packs`?"),
        ("uses: 20", "uses: 0", "15:47: packs.starter.uses: Input should be greater than or equal to 1"),
        ("  starter:", "  pro:", "15:3: packs: 'pro' is a plan already"),
        ("{event_name: calls}", "calls", "13:14: meters.api_calls: Input should be"),
        ("{event_name: calls}", "{event_name: calls}\n  b: {event_name: calls}", "13:3: meters: Two meters have"),
        ("default_plan: free", "default_plan: pro", "16:15: default_plan: The default_plan must be one of the plans"),
        ("active: grant", "active: perhaps", "17:18: access.active: Input should be 'grant', 'grace' or 'deny'"),
        ("amount: 9900", "amount: 0120", "8:13: plans.pro.amount: write the number in decimal digits"),
        ("amount: 9900", "amount: 99:00", "8:13: plans.pro.amount: write the number in decimal digits"),
        ("amount: 9900", "amount: " + "9" * 5000, "8:13: this value can't be read"),
        ("amount: 9900", "amount: 100000000", "8:13: plans.pro.amount: Input should be less than or equal to 99999999"),
        ("name: Pro", "name: 2026-02-30", "7:11: this value can't be read"),
        ("name: Pro", "name: !!int x", "7:11: "),
        ("name: Pro", "name: !!python/object:os.system x", "7:11: could not determine a constructor"),
        ("  pro:", "  12:", "6:3: plans: a key that is no text: quote it"),
        ("  pro:", "  on:", "6:3: plans: a key that is no text: quote it"),
        ("  pro:", "  ? [a, b]\n  :", "6:5: plans: a key that is no text: quote it"),
        ("currency: usd", "1: usd", "1:1: file: a key that is no text: quote it"),
        ("plans:", "- plans:", "2:1: "),
        ("access:", "access: {", "18:1: "),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert WHOLE.count(old) >= 1
    [mistake] = mistakes(tmp_path, WHOLE.replace(old, new, 1))
    assert mistake.startswith(told), mistake


def test_all_mistakes_are_told_at_once_in_the_file_s_order(tmp_path: Path) -> None:
    wrong = WHOLE.replace("amount: 9900", "amount: -1").replace("uses: 20", "usse: 20")
    assert [line.split(": ")[:2] for line in mistakes(tmp_path, wrong)] == [
        ["8:13", "plans.pro.amount"],
        ["15:41", "packs.starter.usse"],
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: expected a mapping"),
        ("[]", "1:1: expected a mapping"),
        ("plans: {", "1:9: "),
        ("a: 1\nb: \0", "2:4: the character U+0000 is not allowed"),
        ("plans: &a {b: *a}", "1:8: too deep, or too much: does an alias repeat itself?"),
        ("[" * 5000, "1:1: nested too deeply"),
        ("a: 1\n--- {}\n", "2:1: but found another document"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path, text: str, told: str) -> None:
    assert mistakes(tmp_path, text)[0].startswith(told), mistakes(tmp_path, text)


def test_a_file_that_can_t_be_read_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"missing\.yaml: No such file"):
        load(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: Café".encode("latin-1"))
    with pytest.raises(CatalogError, match=r"latin\.yaml: this is no UTF-8 text"):
        load(tmp_path / "latin.yaml")


def test_merged_entries_are_read_as_yaml_means_them(tmp_path: Path) -> None:
    text = WHOLE.replace("  pro:\n", "  pro: &pro\n") + dedent("""\
        x-none: null
    """)
    assert mistakes(tmp_path, text)[0].endswith("unknown key")
    merged = WHOLE.replace("  pro:\n", "  pro: &pro\n").replace(
        "  tokyo:", "  gold:\n    <<: *pro\n    name: Gold\n  tokyo:"
    )
    assert read(tmp_path, merged).plans["gold"].amount == 9900


def test_what_is_wrong_only_where_it_was_merged_is_told_there(tmp_path: Path) -> None:
    text = WHOLE.replace("  pro:\n", "  pro: &pro\n").replace(
        "  tokyo:", "  gold:\n    <<: *pro\n    amount: 0\n  tokyo:"
    )
    assert mistakes(tmp_path, text) == ["11:5: plans.gold.other_prices: A free plan has no other prices"]


@pytest.mark.parametrize("entry", ["<<: [{}]", "x: [{}]"])
def test_aliases_that_come_to_billions_are_refused(tmp_path: Path, entry: str) -> None:
    lines = ["a0: &a0 {name: Lol}"]
    for n in range(1, 9):
        inner = ", ".join([f"*a{n - 1}"] * 9)
        lines.append(f"a{n}: &a{n}\n  " + entry.format(inner))
    [mistake] = mistakes(tmp_path, "\n".join(lines))
    assert "too deep, or too much" in mistake


def test_the_published_schema_is_that_of_the_models() -> None:
    published = json.loads((ROOT / "schemas" / "plans.schema.json").read_text())
    assert published == schema(), "run: billhook plans schema > schemas/plans.schema.json"


def test_our_own_file_names_its_schema_and_has_nothing_the_schema_forbids() -> None:
    text = (ROOT / "plans.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=schemas/plans.schema.json\n")
    assert unknown(yaml.safe_load(text), schema(), schema()["$defs"]) == []


def unknown(data: Any, part: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """The keys that a schema's part doesn't have, and the required ones that are missing."""
    part = definitions[part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
    if not isinstance(data, dict):
        return []
    entries = next(iter(part.get("patternProperties", {}).values()), part.get("additionalProperties"))
    wrong = [f"-{name}" for name in part.get("required", ()) if name not in data]
    for key, value in data.items():
        inner = part.get("properties", {}).get(key) or entries
        wrong += [key] if inner is False or inner is None else unknown(value, inner, definitions)
    return wrong


def test_the_check_against_the_schema_finds_what_is_wrong() -> None:
    data = yaml.safe_load(WHOLE.replace("uses: 20", "usse: 20"))
    assert sorted(unknown(data, schema(), schema()["$defs"])) == ["-uses", "usse"]


@pytest.mark.parametrize("section", ["plans", "packs", "meters"])
def test_the_schema_refuses_a_key_that_the_file_can_t_have(section: str) -> None:
    part = schema()["properties"][section]
    [pattern] = part["patternProperties"]
    assert not re.search(pattern, "Pro")
    assert part["additionalProperties"] is False
