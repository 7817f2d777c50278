"""How every hosted page is answered: its template, its security headers, and plain notices."""

import re
from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "frame-ancestors 'none'; form-action "
)


def page(
    template: str, *, status: int = HTTPStatus.OK, leads_to: Iterable[str | None] = (), **context: Any
) -> HTMLResponse:
    """Render a template. ``leads_to`` are the URLs that the page's forms may end up at."""
    # Chromium holds form-action against the redirect that answers a form as well, so that place has to be named.
    targets = ["'self'", *sorted({_source(url) for url in leads_to if url})]
    return HTMLResponse(
        _templates().get_template(template).render(context),
        status,
        {
            "Cache-Control": "no-store",
            "Content-Security-Policy": _POLICY + " ".join(targets),
            "Referrer-Policy": "no-referrer",  # the page's own URL is what lets its reader in
            "X-Content-Type-Options": "nosniff",
        },
    )


def notice(
    heading: str, message: str, *, status: int = HTTPStatus.OK, link: str | None = None, link_text: str = "Continue"
) -> HTMLResponse:
    return page("notice.html", status=status, heading=heading, message=message, link=link, link_text=link_text)


def see_other(url: str) -> RedirectResponse:
    return RedirectResponse(url, HTTPStatus.SEE_OTHER, {"Cache-Control": "no-store"})


def _source(url: str) -> str:
    """Give the URL's origin as CSP writes it; the bare scheme where CSP has no way to (an app's own, IPv6)."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", host) else f"{parts.scheme}:"


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
