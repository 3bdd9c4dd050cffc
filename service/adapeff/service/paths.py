"""Folders: home directories, private modes, network file systems."""

from __future__ import annotations

from pathlib import Path

from adapeff.service.errors import ConfigError

_NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "fuse.sshfs",
    "afs",
    "ceph",
    "lustre",
    "glusterfs",
    "9p",
}


def expanded(path: str | Path) -> Path:
    """A path with `~` or `~user` replaced by that home folder.

    Raises:
        ConfigError: if the home folder is unknown, for instance of an unknown user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"'{path}': its home folder is unknown; set HOME or give the full path") from error


def make_private(folder: Path) -> None:
    """Create a folder and its missing parents with access for this user only, regardless of the umask.

    Raises:
        OSError: if it cannot be created.
    """
    for path in reversed([folder, *folder.parents]):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """The type of the network file system a path is on, or None for a local one.

    Args:
        path: need not exist yet.
        mounts: the text of /proc/self/mounts (read if None).
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text()
        except OSError:
            return None
    place = expanded(path).resolve()
    best, kind = Path("/"), ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].encode().decode("unicode_escape"))
        if place.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, fields[2]
    return kind if kind in _NETWORK_FILE_SYSTEMS else None
