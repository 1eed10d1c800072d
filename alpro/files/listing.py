"""Lists the files below a folder, following symbolic links, and names everything that it leaves out.

Hidden files and folders are not listed. A link to a file counts as a file of its own name. A folder that is reached by
several links is listed once: where it is itself, or else under the link nearest to the top.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from alpro.files.names import is_text, shown

NOT_UTF8 = "its name is not UTF-8; rename it"
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass(slots=True)
class Listing:
    """The files below a folder, sorted, and those that are left out; names are relative to the folder."""

    names: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (name, reason)

    def leave_out(self, name: str, reason: str) -> None:
        """Add a file or folder that cannot be used."""
        self.left_out.append((name, reason))

    def messages(self, folder: str | Path) -> list[str]:
        """Return a printable line `FOLDER/NAME: reason` for each file that is left out."""
        return [f"{shown(os.path.join(folder, name))}: {reason}" for name, reason in self.left_out]


def list_files(folder: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> Listing:
    """List the files below a folder whose name is `wanted`.

    Named instead of listed: names that are not UTF-8, broken links, loops of links, folders that cannot be read or were
    listed before, and pipes, sockets and devices. The folder itself is named `.`. A missing folder, or a file, has no files.
    """
    root, listing = str(folder), Listing()
    seen: dict[tuple[int, int], str] = {}  # folder's device and inode -> its name below the root
    folders, links = deque([""]), deque[str]()
    while folders or links:
        name = folders.popleft() if folders else links.popleft()
        try:
            here = os.stat(os.path.join(root, name))
            identity = here.st_dev, here.st_ino
            if identity in seen:
                listing.leave_out(name, f"is the folder {seen[identity] or '.'} again")
                continue
            seen[identity] = name
            with os.scandir(os.path.join(root, name)) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if name or not isinstance(error, FileNotFoundError | NotADirectoryError):
                listing.leave_out(name or ".", _reason(error, os.path.join(root, name)))
            continue
        for entry in found:
            path = f"{name}/{entry.name}" if name else entry.name
            if not entry.name.startswith("."):
                _sort_in(entry, path, root, wanted, listing, folders, links)
        if not folders:
            links = deque(sorted(links, key=lambda link: (link.count("/"), link)))
    listing.names.sort()
    listing.left_out.sort()
    return listing


def _sort_in(
    entry: os.DirEntry[str], path: str, root: str, wanted: Callable[[str], bool],
    listing: Listing, folders: deque[str], links: deque[str],
) -> None:  # fmt: skip
    """Add an entry to the folders or links to visit, to the files, or to what is left out."""
    try:
        mode = os.stat(entry.path).st_mode
    except OSError as error:
        listing.leave_out(path, _reason(error, entry.path))
        return
    is_folder = stat.S_ISDIR(mode)
    if not is_folder and not wanted(entry.name):
        return
    if not is_text(entry.name):
        listing.leave_out(path, NOT_UTF8)
    elif is_folder and not entry.is_symlink():
        folders.append(path)
    elif is_folder and _contains(entry.path, root):
        listing.leave_out(path, "is a link to a folder that contains it")
    elif is_folder:
        links.append(path)
    elif stat.S_ISREG(mode):
        listing.names.append(path)
    else:
        listing.leave_out(path, f"is {_KINDS.get(stat.S_IFMT(mode), 'no regular file')}, not a file")


def _contains(link: str, root: str) -> bool:
    """Return True if a link leads to a folder that contains the link or the listed folder."""
    target = Path(os.path.realpath(link))
    return any(Path(os.path.realpath(place)).is_relative_to(target) for place in (os.path.dirname(link), root))


def _reason(error: OSError, path: str) -> str:
    """Return why a path cannot be read."""
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return f"is a broken link (to {shown(os.readlink(path))})"
    return (error.strerror or str(error)).lower().replace("too many levels of symbolic links", "is a loop of links")
