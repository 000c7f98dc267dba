"""What a result was made by: the code, the versions of its libraries, the machine, and the memory that it took."""

import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "compress", "compact", "training", "deploy", "report")
CPUINFO = Path("/proc/cpuinfo")  # Linux has it
INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")  # that products are made of, as Linux names them


def code_identity() -> dict[str, str | None]:
    """{commit, sha256}: the commit checked out (None outside git) and a hash over every Python file, page and recipe of the product."""
    digest = hashlib.sha256()
    files = [*REPOSITORY.glob("*.py"), REPOSITORY / "recipes.toml",
             *(path for name in PACKAGES for ending in ("py", "html") for path in (REPOSITORY / name).rglob(f"*.{ending}"))]
    for path in sorted(files):
        digest.update(path.relative_to(REPOSITORY).as_posix().encode() + b"\0" + path.read_bytes())
    commit = None
    if (REPOSITORY / ".git").exists() and shutil.which("git"):
        shown = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, encoding="utf-8",
                               errors="replace", check=False)
        commit = shown.stdout.strip() or None
    return {"commit": commit, "sha256": digest.hexdigest()}


def versions() -> dict[str, str | None]:
    """{package: version}; None of one that isn't installed, as stages that don't need it run all the same."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ["torch", "transformers", "datasets", "bitsandbytes", "numpy", "onnx", "onnxruntime"]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the last core; empty elsewhere."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def instructions() -> list[str]:
    """Which of INSTRUCTIONS this processor has; none where the system doesn't say."""
    flags = _cpuinfo().get("flags", "").split()
    return [name for name in INSTRUCTIONS if name in flags]


def cpu_name() -> str:
    """The processor and its instruction sets, "AMD EPYC (avx2)": one name is sold with and without the faster ones."""
    name, has = _cpuinfo().get("model name") or platform.processor() or platform.machine(), instructions()
    return f"{name} ({', '.join(has)})" if has else name


def gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def peak_rss_mb() -> float:
    """Largest resident memory of this program so far, in 10^6 bytes."""
    status = Path("/proc/self/status")  # on Linux ru_maxrss carries the parent's peak through fork and exec; VmHWM starts anew
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    if sys.platform == "win32":
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 1e6, 1)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
