"""Network file systems are recognised by the mount that a folder is on."""

from alpro.system.filesystems import network_filesystem


def test_the_innermost_mount_decides(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n/dev/sdb /home/me/local\\040disk xfs rw 0 0\n"
        "server:/x /over ext4 rw 0 0\nserver:/x /over nfs rw 0 0\n"
    )
    kinds = {path: network_filesystem(path, mounts) for path in ("/", "/home/me", "/homes", "/home/me/local disk/a", "/over/b")}
    assert kinds == {"/": None, "/home/me": "nfs4", "/homes": None, "/home/me/local disk/a": None, "/over/b": "nfs"}


def test_everything_is_local_without_a_table_of_mounts(tmp_path):
    assert network_filesystem(tmp_path, tmp_path / "none") is None
