"""Signed links: good for one key, until they expire."""

from urllib.parse import parse_qs, urlsplit

import pytest

from shared import links
from shared.errors import Forbidden

SECRET = b"secret"
NOW = 1_800_000_000


def parts(link: str) -> tuple[str, str, str]:
    url = urlsplit(link)
    query = parse_qs(url.query)
    return url.path.removeprefix(links.PREFIX), query["expires"][0], query["signature"][0]


def test_a_link_is_good_until_it_expires_and_no_longer():
    link = links.make("http://mini:8080", SECRET, "blob-1", NOW)
    assert link.startswith("http://mini:8080/v1/blobs/blob-1?")
    links.check(SECRET, *parts(link), NOW)
    links.check(SECRET, *parts(link), NOW + links.LIFETIME)
    with pytest.raises(Forbidden, match="expired"):
        links.check(SECRET, *parts(link), NOW + links.LIFETIME + 1)


def test_a_link_says_nothing_of_the_secret():
    assert "secret" not in links.make("", SECRET, "blob-1", NOW)


@pytest.mark.parametrize("secret", [SECRET, b"another", b"", None])
@pytest.mark.parametrize(
    ("key", "expires", "signature"),
    [
        ("blob-2", None, None),
        (None, f"{NOW + 10 * links.LIFETIME}", None),
        (None, f" {NOW + links.LIFETIME}", None),
        (None, f"+{NOW + links.LIFETIME}", None),
        (None, "", None),
        (None, "-1", None),
        (None, "1e12", None),
        (None, "９" * 12, None),
        (None, "9" * 5000, None),
        (None, None, ""),
        (None, None, "0" * 64),
        (None, None, "é\ud800"),
    ],
)
def test_what_was_changed_is_refused(
    key: str | None, expires: str | None, signature: str | None, secret: bytes | None
):
    good = parts(links.make("", SECRET, "blob-1", NOW))
    changed = [
        new if new is not None else old for new, old in zip((key, expires, signature), good, strict=True)
    ]
    with pytest.raises(Forbidden):
        links.check(secret, *changed, NOW)


def test_without_a_secret_no_link_is_good():
    for secret in (b"", b"None"):
        with pytest.raises(Forbidden):
            links.check(None, *parts(links.make("", secret, "blob-1", NOW)), NOW)
