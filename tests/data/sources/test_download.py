"""Downloads are resumed, verified or refused, however the server behaves."""

import hashlib
import re

import pytest

from alpro.data.sources.download import Expected, Unavailable, download
from tests.data.hostile import Page, hostile

CONTENT = bytes(range(256)) * 400
MD5 = hashlib.md5(CONTENT).hexdigest()


def get(page, target, expected=Expected(), others=None, **options):  # noqa: B008
    with hostile({"/file": page, **(others or {})}) as address:
        return download(f"{address}/file", target, expected, pause_s=0.0, **options).read_bytes()


def test_cut_connection_is_resumed(tmp_path):
    page = Page(CONTENT, cut=[1000, 50_000])
    assert get(page, tmp_path / "f", Expected(md5=MD5)) == CONTENT
    assert page.seen == ["", "bytes=1000-", "bytes=51000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_killed_download_resumes(tmp_path):
    page = Page(CONTENT, cut=[1000] + [0] * 20)
    with pytest.raises(Unavailable, match=r"connection closed after 1000 bytes; stopped after 2 tries.*run again to resume"):
        get(page, tmp_path / "f", tries=2)
    again = Page(CONTENT)
    assert get(again, tmp_path / "f") == CONTENT
    assert again.seen == ["bytes=1000-"]


def test_versions_of_a_file_are_never_mixed(tmp_path):
    with pytest.raises(Unavailable):
        get(Page(CONTENT[::-1], etag='"old"', cut=[1000] + [0] * 20), tmp_path / "f", tries=1)
    assert get(Page(CONTENT), tmp_path / "f") == CONTENT  # the server compares the ETag and sends the whole file


def test_without_an_etag_the_checksum_detects_mixed_versions(tmp_path):
    with pytest.raises(Unavailable):
        get(Page(CONTENT[::-1], etag=None, cut=[1000] + [0] * 20), tmp_path / "f", Expected(md5=MD5), tries=1)
    page = Page(CONTENT, etag=None)
    assert get(page, tmp_path / "f", Expected(md5=MD5)) == CONTENT
    assert page.seen == ["bytes=1000-", ""]


def test_download_restarts_if_the_server_ignores_ranges(tmp_path):
    page = Page(CONTENT, ranges=False, cut=[1000])
    assert get(page, tmp_path / "f", Expected(md5=MD5)) == CONTENT
    assert page.seen == ["", "bytes=1000-"]


def test_download_fails_if_the_server_ignores_ranges_and_always_cuts(tmp_path):
    with pytest.raises(Unavailable, match="stopped after 3 tries"):
        get(Page(CONTENT, ranges=False, cut=[1000] * 50), tmp_path / "f", tries=3)


@pytest.mark.parametrize("published", [{"md5": MD5}, {"sha256": hashlib.sha256(CONTENT).hexdigest()}])
def test_wrong_bytes_are_refused_and_deleted(tmp_path, published):
    with pytest.raises(Unavailable, match=r"wrong content: its (md5|sha256) is [0-9a-f]+, expected [0-9a-f]+"):
        get(Page(b"x" * len(CONTENT)), tmp_path / "f", Expected(**published))
    assert not list(tmp_path.iterdir())


def test_download_shorter_than_announced_fails(tmp_path):
    with pytest.raises(Unavailable, match="stopped after 2 tries"):
        get(Page(CONTENT, claim=len(CONTENT) + 10, etag=None), tmp_path / "f", tries=2)
    assert not (tmp_path / "f").exists()


def test_size_other_than_published_is_refused(tmp_path):
    with pytest.raises(Unavailable, match=re.escape(f"offers 100 bytes, but the published size is {len(CONTENT)}")):
        get(Page(CONTENT, claim=100), tmp_path / "f", Expected(size=len(CONTENT)))


def test_file_over_the_size_limit_is_refused(tmp_path):
    with pytest.raises(Unavailable, match="more than the limit of 1000"):
        get(Page(CONTENT), tmp_path / "f", Expected(at_most=1000))


@pytest.mark.parametrize("status", [403, 404])
def test_missing_file_is_not_retried(tmp_path, status):
    page = Page(status=status)
    with pytest.raises(Unavailable, match=f"HTTP {status}"):
        get(page, tmp_path / "f")
    assert len(page.seen) == 1


def test_busy_server_is_retried(tmp_path):
    page = Page(status=503)
    with pytest.raises(Unavailable, match=r"HTTP 503 .*stopped after 3 tries"):
        get(page, tmp_path / "f", tries=3)
    assert len(page.seen) == 3


def test_redirect_is_followed(tmp_path):
    assert get(Page(status=302, location="/moved"), tmp_path / "f", others={"/moved": Page(CONTENT)}) == CONTENT


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirect_to_another_protocol_is_refused(tmp_path, location):
    with pytest.raises(Unavailable, match=r"neither http nor https|HTTP 302"):
        get(Page(status=302, location=location), tmp_path / "f")


def test_only_http_addresses_are_fetched(tmp_path):
    with pytest.raises(Unavailable, match="neither http nor https"):
        download("file:///etc/passwd", tmp_path / "f")
