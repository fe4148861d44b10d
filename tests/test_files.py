"""Files are written completely or not at all."""

import hashlib
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from spatialonnx.errors import InputError, OutputError
from spatialonnx.files import check_writable, sha256_bytes, sha256_files, write_bytes, writing


def test_a_file_is_written_whole(tmp_path):
    write_bytes(tmp_path / "a", b"first")
    write_bytes(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path, kind):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(kind), writing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise kind
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from spatialonnx.files import write_bytes\n"
        "from spatialonnx.errors import OutputError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))\n"
        "try:\n"
        "    write_bytes(Path(sys.argv[1]), bytes(5000))\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout and "choose another place" in done.stdout
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_unwritable_folder_is_found_early(tmp_path):
    missing = tmp_path / "no" / "a"
    for check in (check_writable, lambda path: write_bytes(path, b"")):
        with pytest.raises(OutputError, match=r"no folder|No such file"):
            check(missing)
    with pytest.raises(OutputError, match="cannot write"):
        check_writable(Path("/proc/a"))
    with pytest.raises(OutputError, match="it is a folder"):
        check_writable(tmp_path)


def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="not a regular file"):
        check_writable(pipe)
    with pytest.raises(OutputError, match="not a regular file"):
        check_writable(Path("/dev/null"))


def test_checking_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_hashes_are_of_contents(tmp_path):
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "a").write_bytes(content)
    assert sha256_files(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(InputError, match="cannot read"):
        sha256_files(tmp_path / "b")


def test_where_a_part_ends_is_part_of_a_hash():
    assert sha256_bytes(b"ab", b"c") != sha256_bytes(b"a", b"bc")
    assert sha256_bytes(b"ab", b"c") == sha256_bytes(b"ab", b"c")
