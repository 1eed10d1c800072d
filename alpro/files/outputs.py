"""Output folders: a command replaces or removes only files that it can show to be its own.

Every writer leaves a manifest, `.alpro-output.json`, in its folder. A folder may be replaced if it is empty, or if its
manifest lists every file in it. Anything else in it is the user's, and the command refuses before it starts to work.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from alpro.errors import OutputError
from alpro.files.atomic import atomic_write, new_temporary_dir, sha256, swap_dirs, sweep

MANIFEST = ".alpro-output.json"
SHOWN = 3  # foreign files that a message names
FORMAT = 1


@contextmanager
def new_dir(path: str | Path, *sources: str | Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path`, with a manifest, when the block ends.

    If the block raises, `path` is unchanged. Raises OutputError, before the block, if `check_output` refuses the folder.
    """
    target = check_output(path, *sources)
    with new_temporary_dir(target) as temporary:
        yield temporary
        write_manifest(temporary, _files(temporary), digests=True)
        check_output(target)  # somebody may have put a file there meanwhile
        swap_dirs(temporary, target, _remove_listed)


def check_output(path: str | Path, *sources: str | Path) -> Path:
    """Return the folder that a command may write, with links resolved.

    Raises OutputError if it is a file, contains the working directory, is a mount point, contains files that no manifest
    lists or that were changed since, or if it contains one of `sources` or is in one of them.
    """
    target = Path(path).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise OutputError(f"{path}: is a file; give a folder")
    if target == Path.cwd() or target in Path.cwd().parents:
        raise OutputError(f"{path}: is the working directory or contains it; give a folder of its own")
    if os.path.ismount(target):
        raise OutputError(f"{path}: is a mount point, which cannot be replaced; give a folder inside it")
    check_sources(path, target, sources)
    refuse_foreign(path, foreign_files(target))
    return target


def check_file(path: str | Path, replace: bool, *sources: str | Path) -> Path:
    """Return the file that a command may write; its folder need not exist.

    Raises OutputError if it is a folder, is one of `sources`, or exists and `replace` is False: a single file has no manifest
    that could show whose it is.
    """
    target = Path(path).expanduser()
    if target.is_dir():
        raise OutputError(f"{path}: is a folder; give a file")
    if any(target.resolve() == Path(source).expanduser().resolve() for source in sources):
        raise OutputError(f"{path}: is the file that is read; give another one")
    if (target.exists() or target.is_symlink()) and not replace:
        raise OutputError(f"{path}: exists; give another name, or --replace to overwrite it")
    blocked = next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None)
    if blocked is not None:
        raise OutputError(f"{path}: {blocked} is a file, not a folder; give another path")
    return target


def generator_tag(command: str) -> str:
    """Return the HTML element by which `check_page` recognises a command's page."""
    return f'<meta name="generator" content="{command}">'


def check_page(path: str | Path, command: str) -> Path:
    """Return the HTML file that a command may write: a new one, or one that it made. Raises OutputError otherwise."""
    target = check_file(path, replace=True)
    if target.exists() and generator_tag(command).encode() not in target.read_bytes()[:1000]:
        raise OutputError(f"{path}: exists and was not made by `{command}`; move it away, or give another name")
    return target


def check_sources(path: str | Path, target: Path, sources: Iterable[str | Path]) -> None:
    """Raise OutputError if an output folder contains one of the sources or is in one."""
    for source in map(Path, sources):
        real = source.expanduser().resolve()
        if real == target or target in real.parents:
            raise OutputError(f"{path}: contains {source}, which is read; give another folder")
        if real in target.parents:
            raise OutputError(f"{path}: is inside {source}, which is read; give a folder outside it")


def refuse_foreign(path: str | Path, foreign: Iterable[str]) -> None:
    """Raise OutputError that names up to three foreign files; nothing happens if there are none."""
    names = list(islice(foreign, SHOWN + 1))
    if names:
        more = " and more" if len(names) > SHOWN else ""
        raise OutputError(
            f"{path}: contains files that this command did not write ({', '.join(names[:SHOWN])}{more}); "
            "move them away, or give another folder"
        )


def foreign_files(folder: Path) -> Iterator[str]:
    """Yield the files and links of a folder that its manifest does not list, or lists with other content.

    A sub-folder that cannot be read counts as such a file, and so does a manifest that no command of this version writes.
    Temporary files that a killed process of this machine left in the folder are removed first.
    """
    if folder.is_dir():
        with suppress(OSError):  # a folder that cannot be read is yielded below
            sweep(folder)
    manifest = _read(folder)
    listed = manifest.get("files", {})
    for name in _files(folder):
        if name.endswith("/"):
            yield f"{name} (cannot be read)"
        elif not (manifest if name == MANIFEST else _is_listed(folder / name, listed.get(name))):
            yield name


def read_manifest(folder: Path) -> dict[str, str]:
    """Return {file: SHA-256, or an empty string for a file listed by name} of a folder; empty if there is no manifest."""
    return dict(_read(folder).get("files", {}))


def write_manifest(folder: Path, names: Iterable[str], digests: bool = False, source: str = "") -> None:
    """Write the manifest of a folder; with `digests`, a file counts as listed only while its content is unchanged.

    `source` is the folder that the files are made from, relative to this one.
    """
    files = {name: sha256(folder / name) if digests else "" for name in sorted(names) if name != MANIFEST}
    manifest = {"format": FORMAT, "files": files, **({"source": source} if source else {})}
    atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=True) + "\n")


class OwnFiles:
    """The files that a command adds to a folder one by one, such as converted copies or shards, listed by name.

    The manifest is written before the files, so that a killed run leaves no file that looks like the user's.
    """

    def __init__(
        self,
        folder: str | Path,
        source: str | Path,
        names: Iterable[str],
        temporary: Iterable[str] = (),
        record_source: bool = True,
    ) -> None:
        """Claim the folder for the files `names` made from `source`, and for `temporary` ones that a kill may leave.

        With `record_source`, the folder then belongs to this source. Raises OutputError if it is not a folder, contains
        foreign files, belongs to another source, or overlaps with `source`.
        """
        self.names = set(names)
        target = Path(folder).expanduser().resolve()
        if target.exists() and not target.is_dir():
            raise OutputError(f"{folder}: is a file; give a folder")
        check_sources(folder, target, [source])
        refuse_foreign(folder, foreign_files(target))
        self._source = os.path.relpath(Path(source).expanduser().resolve(), target) if record_source else ""
        before = _read(target).get("source", self._source)
        if record_source and before != self._source:
            origin = os.path.normpath(target / before)
            raise OutputError(f"{folder}: contains the files made from {origin}; give another folder for {source}")
        target.mkdir(parents=True, exist_ok=True)
        self.folder = target
        self._listed = {*read_manifest(target), *self.names, *temporary}
        write_manifest(target, self._listed, source=self._source)

    def finish(self) -> None:
        """Remove temporary files and files of earlier runs that are no longer among `names`, and forget them."""
        for name in sorted(self._listed - self.names):
            _remove(self.folder, name)
            _remove_empty_parents(self.folder, self.folder / name)
        names = [name for name in self.names if (self.folder / name).exists()]
        write_manifest(self.folder, names, source=self._source)


def _read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder; empty if there is none, or none that this version writes.

    A manifest comes with a folder that may be someone else's, so one that names a file outside the folder is not used.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, source = manifest["files"], manifest.get("source", "")
        valid = manifest["format"] == FORMAT and isinstance(files, dict) and isinstance(source, str)
        return manifest if valid and all(_is_inside(name) and isinstance(files[name], str) for name in files) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_inside(name: str) -> bool:
    """Return True if a name is a relative path in its simplest form, without `..`."""
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_listed(file: Path, digest: str | None) -> bool:
    """Return True if a file is the one that the manifest lists; DVC may have restored it as a link into its cache."""
    if digest is None:
        return False
    try:
        return not digest or sha256(file) == digest
    except OSError:  # a broken link, or a folder in the place of the file
        return False


def _files(folder: Path) -> Iterator[str]:
    """Yield the files and links below a folder as relative paths; links to folders are not followed.

    Folders that cannot be read are yielded too, with a slash at the end.
    """
    unreadable: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted([*names, *links]):
            yield os.path.relpath(os.path.join(parent, name), folder)
    for error in unreadable:
        if not isinstance(error, FileNotFoundError):
            yield f"{os.path.relpath(error.filename, folder)}/"


def _remove_listed(folder: Path) -> None:
    """Remove a replaced folder; a file that appeared in it at the last moment is kept beside the new folder."""
    for name in [*read_manifest(folder), MANIFEST]:
        _remove(folder, name)
    if any(True for _ in _files(folder)):
        os.replace(folder, folder.with_name(f"{folder.name.lstrip('.')}.kept"))
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, name: str) -> None:
    """Remove a file that the manifest lists, unless a folder has its name or a link on the way to it leads elsewhere."""
    file = folder / name
    if file.parent.resolve() == folder.resolve() / Path(name).parent and (file.is_file() or file.is_symlink()):
        file.unlink(missing_ok=True)


def _remove_empty_parents(root: Path, file: Path) -> None:
    for parent in file.parents:
        if parent == root or not _is_real_folder(parent) or any(parent.iterdir()):
            return
        parent.rmdir()
