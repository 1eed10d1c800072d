"""Damaged and malicious archives are refused."""

import io
import random
import stat
import tarfile
import zipfile

import pytest

from alpro.data.sources.archives import unpack
from alpro.errors import DataError


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in members:
            file.writestr(member, content)
    return path


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as file:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def special(kind, name="videos/a.mp4", target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def link_in_zip():
    info = zipfile.ZipInfo("videos/a.mp4")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


GOOD = [("videos/a.mp4", b"one"), ("__MACOSX/videos/._a.mp4", b"junk"), ("videos/b.mp4", b"two"), ("readme.txt", b"no")]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_only_matching_members_are_unpacked(tmp_path, kind):
    archive = tmp_path / f"a.{kind}"
    make_zip(archive, GOOD) if kind == "zip" else make_tar(archive, GOOD, f"w:{kind[4:]}" if kind != "tar" else "w")
    assert unpack(archive, tmp_path / "out", ("*.mp4",), "name") == ["a.mp4", "b.mp4"]
    assert unpack(archive, tmp_path / "whole", ("*",)) == ["readme.txt", "videos/a.mp4", "videos/b.mp4"]
    assert (tmp_path / "whole/videos/b.mp4").read_bytes() == b"two"


@pytest.mark.parametrize(
    "name", ["../out.mp4", "videos/../../out.mp4", "/tmp/out.mp4", "C:/out.mp4", "videos\\..\\..\\out.mp4"]
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_member_outside_the_folder_is_refused(tmp_path, name, make):
    archive = make(tmp_path / "archive", [("videos/a.mp4", b"one"), (name, b"bad")])
    with pytest.raises(DataError, match="leads out of its folder"):
        unpack(archive, tmp_path / "out", ("*.mp4",))
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("kind", "word"),
    [(tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.CHRTYPE, "device"), (tarfile.FIFOTYPE, "device")],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, word):
    archive = make_tar(tmp_path / "a.tar", [(special(kind), b"")])
    with pytest.raises(DataError, match=f"is a {word}; nothing was unpacked"):
        unpack(archive, tmp_path / "out")


def test_link_in_a_zip_is_refused(tmp_path):
    with pytest.raises(DataError, match="is a link or a device"):
        unpack(make_zip(tmp_path / "a.zip", [(link_in_zip(), "/etc/passwd")]), tmp_path / "out")


def test_decompression_bomb_is_refused_before_it_is_written(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a.mp4", bytes(5_000_000))])
    assert archive.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"unpacks to more than 0.001 GB"):
        unpack(archive, tmp_path / "out", at_most=1_000_000)
    assert not list((tmp_path / "out").iterdir())


def test_member_longer_than_declared_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a.mp4", bytes(100_000))])
    lying = archive.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(lying)
    with pytest.raises(DataError, match=r"not a complete zip or tar|does not have its declared length"):
        unpack(archive, tmp_path / "out")


def test_members_with_the_same_name_are_refused(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [("train/a.mp4", b"one"), ("test/a.mp4", b"two")])
    with pytest.raises(DataError, match=r"'train/a.mp4' and 'test/a.mp4' would both become 'a.mp4'"):
        unpack(archive, tmp_path / "out", keep="name")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_truncated_archive_is_refused(tmp_path, make):
    archive = make(tmp_path / "archive", [("a.mp4", bytes(range(256)) * 500)])
    archive.write_bytes(archive.read_bytes()[: 20_000 if make is make_tar else 100])
    with pytest.raises(DataError, match=r"not a complete zip or tar|does not have its declared length"):
        unpack(archive, tmp_path / "out")


def test_flipped_bytes_in_a_zip_are_detected(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.mp4", b"x" * 1000)
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"xxxxxxxx", b"xxyxxxxx", 1))
    with pytest.raises(DataError, match=r"not a complete zip or tar .*CRC"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_damaged_table_of_contents_of_a_zip_is_reported(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("é.mp4", b"x" * 1000)
    whole = (tmp_path / "a.zip").read_bytes()
    end = len(whole) - 22  # of the table; 16 bytes later is its offset, from which the members' places are counted
    moved = int.from_bytes(whole[end + 16 : end + 20], "little") + 10
    damaged_name = whole.replace("é".encode(), b"\xff\xfe")
    own, table = whole.index("é".encode()), whole.rindex("é".encode())
    for content in (
        damaged_name[:table] + whole[table:],  # the name before the member
        whole[: own + 2] + damaged_name[own + 2 :],  # the name in the table
        whole[: end + 16] + moved.to_bytes(4, "little") + whole[end + 20 :],
    ):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.zip: not a complete zip or tar \(.*(damaged|can't decode)"):
            unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_inside_a_compressed_member_is_reported(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as file:
        file.writestr("a.mp4", random.Random(0).randbytes(40_000))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[200:700] = bytes(byte ^ 0x5A for byte in content[200:700])
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="not a complete zip or tar"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_web_page_instead_of_an_archive_is_reported(tmp_path):
    (tmp_path / "a.zip").write_text("<!DOCTYPE html><title>quota exceeded</title>")
    with pytest.raises(DataError, match="it is a web page"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_error_for_an_archive_without_matches_lists_its_contents(tmp_path):
    with pytest.raises(DataError, match=r"contains nothing that matches \*.avi \(it contains a.mp4\)"):
        unpack(make_zip(tmp_path / "a.zip", [("a.mp4", b"x")]), tmp_path / "out", ("*.avi",))
