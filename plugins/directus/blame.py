"""What a refusal of a first call says of the configuration: which option is to be mended, in words that end with how. No I/O."""

from __future__ import annotations

from plugins.directus.refusals import DirectusFailed, DirectusRefused
from sidecar import StartRefused, Unavailable


def blamed(refusal: DirectusRefused, part: str, url: str) -> StartRefused | Unavailable:
    """What is to be raised when a call that every service user may make is refused.

    `StartRefused`; `Unavailable` where Directus itself fails, which no option mends.
    """
    if (elsewhere := not_the_token(refusal, part, url)) is not None:
        return elsewhere
    mend = f"put the service user's static token into {part}.options.token or token_file, or run `sidecar bootstrap`"
    if refusal.code == "TOKEN_EXPIRED":
        return StartRefused(
            part, f"the service user's token has expired: it is that of a login, and no static one; {mend}"
        )
    return StartRefused(part, f"Directus refuses the service user's token ({refusal.status} {refusal.code}); {mend}")


def not_the_token(refusal: DirectusRefused, part: str, url: str) -> StartRefused | Unavailable | None:
    """The same where something else than the token is to blame, else None."""
    if isinstance(refusal, DirectusFailed):
        return Unavailable(part, f"Directus fails ({refusal.status} {refusal.code}); look at its log")
    if refusal.foreign:
        return no_directus(part, url, f"{refusal.status}")
    if not refusal.credentials and refusal.code in ("ROUTE_NOT_FOUND", "FORBIDDEN"):
        return StartRefused(
            part,
            f"Directus does not serve its API at {url} ({refusal.status} {refusal.code}); look at the path in {part}.options.url",
        )
    return None


def no_directus(part: str, url: str, what: str) -> StartRefused:
    """Something answers, and not as Directus does."""
    return StartRefused(
        part,
        f"what answers at {url} is no Directus ({what}); look at {part}.options.url, and at the proxy before Directus",
    )
