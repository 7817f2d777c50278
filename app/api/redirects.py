"""Where a browser may be sent after Checkout or the portal: to our own product and nowhere else."""

import re
from urllib.parse import SplitResult, urlsplit

from app.errors import InvalidRequestError
from app.settings import Settings

MAX_LENGTH = 2048
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS = {"https": 443, "http": 80}
# Browsers and urlsplit disagree about everything else: they drop tabs and line feeds and turn \ into /.
_PLAIN = re.compile(r"[\x21-\x5b\x5d-\x7e]+")

Origin = tuple[str, str, int]


def require_allowed(settings: Settings, **urls: str) -> None:
    """Raises InvalidRequestError naming the first of `urls` that is not on an allowed origin."""
    allowed = {_origin(urlsplit(url)) for url in (settings.public_url, *settings.redirect_origins)}
    for param, url in urls.items():
        if not _is_allowed(url, allowed, development=settings.environment != "production"):
            raise InvalidRequestError(
                f"`{param}` must be an https URL on one of the origins in REDIRECT_ORIGINS.",
                code="redirect_not_allowed",
                param=param,
            )


def _is_allowed(url: str, allowed: set[Origin], *, development: bool) -> bool:
    if len(url) > MAX_LENGTH or not _PLAIN.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        origin = _origin(parts)
    except ValueError:
        return False
    scheme, host, _ = origin
    safe = scheme == "https" or (scheme == "http" and development and host in _LOCAL_HOSTS)
    return safe and "@" not in parts.netloc and origin in allowed


def _origin(parts: SplitResult) -> Origin:
    """Scheme, host and port, spelt one way. Raises ValueError for a port that is none."""
    port = parts.port
    return parts.scheme, parts.hostname or "", _PORTS.get(parts.scheme, 0) if port is None else port
