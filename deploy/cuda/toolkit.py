#!/usr/bin/env python3
"""`toolkit.py` prints the folder of a CUDA toolkit: an installed one (CUDA_HOME, or nvcc on PATH), else one put together from
Python packages below ~/.cache/text2vec-sidecar/cuda, once. It is enough to compile with.

`toolkit.py --libraries DIR` puts the libraries into DIR that the program loads beside the driver's when a GPU is used: 730 MB. `toolkit.py --sanitizer DIR` puts compute-sanitizer there."""

from __future__ import annotations

import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
COMPILER = HERE / "compiler.txt"
LIBRARIES = HERE / "libraries.txt"
SANITIZER = HERE / "sanitizer.txt"


def installed() -> pathlib.Path | None:
    home = os.environ.get("CUDA_HOME")
    if home:
        if not (pathlib.Path(home) / "bin" / "nvcc").is_file():
            sys.exit(f"CUDA_HOME is {home}, but {home}/bin/nvcc is not there: name a CUDA toolkit, or unset it")
        return pathlib.Path(home)
    nvcc = shutil.which("nvcc")
    return pathlib.Path(nvcc).resolve().parent.parent if nvcc else None


def download(requirements: pathlib.Path, target: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(target), "-r", str(requirements)]
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        sys.exit("pip cannot get CUDA's packages: install a CUDA 13 toolkit and set CUDA_HOME")


def unpack(wheels: pathlib.Path, target: pathlib.Path) -> None:
    """All wheels of CUDA 13 share the folder nvidia/cu13, which is a toolkit's layout."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                parts = pathlib.PurePosixPath(name).parts
                if len(parts) < 3 or parts[0] != "nvidia" or name.endswith("/") or ".." in parts:
                    continue
                path = target.joinpath(*parts[2:])
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, path.open("wb") as out:
                    shutil.copyfileobj(source, out)
    # A wheel keeps no permissions that pip would not set.
    for folder in (target / "bin", target / "nvvm" / "bin"):
        for program in folder.iterdir() if folder.is_dir() else ():
            program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    if not (target / "lib64").exists():
        (target / "lib64").symlink_to("lib")


def assembled() -> pathlib.Path:
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "text2vec-sidecar" / "cuda"
    target = cache / "toolkit-13.0"
    if (target / "bin" / "nvcc").is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        wheels, part = pathlib.Path(folder) / "wheels", pathlib.Path(folder) / "toolkit"
        print("getting CUDA's compiler and headers (about 150 MB, once)", file=sys.stderr)
        download(COMPILER, wheels)
        unpack(wheels, part)
        if not (part / "bin" / "nvcc").is_file():
            sys.exit("the packages hold no nvcc: install a CUDA 13 toolkit and set CUDA_HOME")
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    return target


def libraries(target: pathlib.Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wheels, part = pathlib.Path(folder) / "wheels", pathlib.Path(folder) / "parts"
        download(LIBRARIES, wheels)
        unpack(wheels, part)
        for name in ("libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10"):
            shutil.copy(part / "lib" / name, target / name)


def sanitizer(target: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        download(SANITIZER, pathlib.Path(folder))
        unpack(pathlib.Path(folder), target)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--libraries"] and len(sys.argv) == 3:
        libraries(pathlib.Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--sanitizer"] and len(sys.argv) == 3:
        sanitizer(pathlib.Path(sys.argv[2]))
    elif len(sys.argv) == 1:
        print(installed() or assembled())
    else:
        sys.exit(__doc__)
