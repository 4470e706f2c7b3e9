"""What is set before jax starts: its threads, and a cache of compiled programs, apart for every
kind of machine."""

from __future__ import annotations

import os


def fix_threads(count: int | None = None) -> None:
    """Fix the number of threads that XLA splits large sums over: a run's bits depend on it.

    Without `count` it is what `NPROC` says, else the visible cores. With fewer than those the
    process is narrowed to as many cores, for the split at run time goes by them. Must come before
    jax's first operation.
    """
    from surefoot.provenance import threads, visible_cores

    if count is not None and count < visible_cores() and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:count]))
    os.environ["NPROC"] = str(threads() if count is None else count)


def compilation_cache() -> None:
    """Keep compiled programs between runs, one folder per machine type and core count (the key
    lacks the count)."""
    import platform

    import jax

    if os.environ.get("SUREFOOT_CACHE") == "off":
        return
    from surefoot.provenance import visible_cores

    cores = visible_cores()
    root = os.environ.get("SUREFOOT_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"),
        "surefoot",
    )
    machine = f"{platform.machine()}-{cpu_tag()}-{cores}-{os.environ.get('NPROC', '')}"
    folder = os.path.join(root, f"jax-{jax.__version__}-{machine}")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cpu_tag() -> str:
    """A few letters that differ between processors with different instructions."""
    import hashlib

    try:
        with open("/proc/cpuinfo") as f:
            text = next((line for line in f if line.startswith(("flags", "Features"))), "")
    except OSError:
        import platform

        text = platform.processor()
    return hashlib.sha256(text.encode()).hexdigest()[:8]
