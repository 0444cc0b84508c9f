"""The image registry, the images of the cluster's own parts, and those of the project (`load`)."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from testbed import build
from testbed.build import Say
from testbed.control_plane import CONTROL
from testbed.errors import TestbedError
from testbed.layout import CACHE, CHECKOUT, REGISTRY, STATE
from testbed.process import run, start, wait_until

BASE = "debian:bookworm-slim"
"""What the project's Dockerfiles stand on; here it is made by debootstrap, for there is no registry to pull it from."""
SUITE = "bookworm"
S3 = "seaweedfs"
NOBODY = "65532:65532"
SCRATCH = STATE / "scratch"
"""Where buildah packs layers: gigabytes that a killed build would leave in the machine's own folder for such."""
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
BINARIES = {
    "pause": ("pause", "pause"),
    "coredns": ("coredns", "coredns"),
    "kuberay": ("ray-operator", "manager"),
    "kueue": ("kueue", "manager"),
    "prometheus": ("prometheus", "prometheus"),
    "alertmanager": ("alertmanager", "alertmanager"),
}
"""Images of one program of the component of that name: as it was built, and as the published manifest calls it."""


def reference(name: str) -> str:
    """Full name by which a pod asks for one of the cluster's own images."""
    return f"{REGISTRY}/testbed/{name}:{_tag(name)}"


def _tag(name: str) -> str:
    if name == S3:
        return build.WEED_PACKAGE.partition("==")[2]
    return build.component(name).output.name.removeprefix(f"{name}-")


def write_registry_settings() -> Path:
    """Write what the registry reads; what it holds stays in the cache."""
    config = STATE / "registry.json"  # YAML is a superset
    settings = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(CACHE / "registry")}, "delete": {"enabled": True}},
        "http": {"addr": REGISTRY},
    }
    config.write_text(json.dumps(settings))
    return config


def start_registry() -> None:
    """Start the registry."""
    start("registry", ["docker-registry", "serve", write_registry_settings()], group=CONTROL)
    wait_until(_is_registry_up, "the image registry", 30, log="registry")


def _is_registry_up() -> bool:
    try:
        with urllib.request.urlopen(f"http://{REGISTRY}/v2/", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def is_pushed(image: str) -> bool:
    """Whether the registry has the image."""
    name, _, tag = image.removeprefix(f"{REGISTRY}/").rpartition(":")
    request = urllib.request.Request(f"http://{REGISTRY}/v2/{name}/manifests/{tag}", method="HEAD")
    request.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except urllib.error.HTTPError:
        return False


def buildah(*arguments: object) -> str:
    """Run buildah on the testbed's own storage."""
    SCRATCH.mkdir(exist_ok=True)
    storage = ["--root", CACHE / "buildah", "--runroot", STATE / "buildah", "--storage-driver", "overlay"]
    return run(["buildah", *storage, *arguments], env={"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(SCRATCH)})


def push_system_images(say: Say) -> None:
    """Make and push those of the cluster's own images that the registry lacks."""
    for name, (binary, called) in BINARIES.items():
        if not is_pushed(reference(name)):
            _push_binary(name, called, build.program(name, binary), say)
    if not is_pushed(reference(S3)):
        _push_binary(S3, "weed", build.weed(), say)


def _push_binary(name: str, called: str, program: Path, say: Say) -> None:
    say(f"image {name}")
    with tempfile.TemporaryDirectory(dir=STATE) as context:
        shutil.copy2(program, Path(context, called))
        recipe = Path(context, "Dockerfile")
        lines = ["FROM scratch", f"COPY {called} /{called}", f"USER {NOBODY}", f'ENTRYPOINT ["/{called}"]']
        recipe.write_text("\n".join(lines) + "\n")
        buildah("build", "--quiet", "--file", recipe, "--tag", reference(name), context)
    push(reference(name))


def push(image: str) -> None:
    """Push a built image to the registry."""
    # Not compressed: pushing and pulling never leave this machine, and packing gigabytes takes minutes.
    buildah("push", "--quiet", "--tls-verify=false", "--disable-compression", image)


def make_base(say: Say) -> None:
    """Make the stand-in for Debian's slim image, if buildah has none."""
    known = json.loads(buildah("images", "--json") or "[]") or []
    if any(name.endswith(f"/{BASE}") for image in known for name in image.get("names") or []):
        return
    say(f"making a stand-in for {BASE} with debootstrap (about a minute)")
    root = CACHE / "base.partial"
    shutil.rmtree(root, ignore_errors=True)
    run(["debootstrap", "--variant=minbase", SUITE, root])
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
    container = buildah("from", "scratch").strip()
    buildah("add", "--quiet", container, root, "/")
    buildah("config", "--cmd", "bash", container)
    buildah("commit", "--quiet", "--rm", container, f"docker.io/library/{BASE}")
    shutil.rmtree(root)


def build_image(file: Path, context: Path, say: Say, arguments: Mapping[str, str]) -> str:
    """Build a Dockerfile on the stand-in base and give the image's id.

    Its layers are kept, so that only what changed is made anew.
    """
    # A build that was killed leaves its containers behind; with the lock held there is no other build to hurt.
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir()
    buildah("rm", "--all")
    make_base(say)
    command: list[object] = ["build", "--layers", "--pull-never", "--network", "host"]
    for key, value in arguments.items():
        command += ["--build-arg", f"{key}={value}"]
    if AUTHORITIES.exists():
        # This machine may know authorities that Debian does not. Mounted aside they are no part of the image, and
        # a Dockerfile that downloads declares the variables that name them as ARGs.
        command += ["--volume", f"{AUTHORITIES.parent}:/run/authorities:ro"]
        for name in ("SSL_CERT_FILE", "PIP_CERT"):
            command += ["--build-arg", f"{name}=/run/authorities/{AUTHORITIES.name}"]
    with tempfile.NamedTemporaryFile(dir=STATE) as said:
        buildah(*command, "--iidfile", said.name, "--file", file, context)
        return Path(said.name).read_text().strip().removeprefix("sha256:")


def load(
    name: str,
    say: Say,
    *,
    file: Path | None = None,
    context: Path = CHECKOUT,
    arguments: Mapping[str, str] | None = None,
) -> str:
    """Build an image, push it, and give the name by which pods ask for it: another content has another name.

    Args:
        name: of the image; images/NAME/Dockerfile of the project describes it.
        say: takes progress.
        file: another Dockerfile.
        context: the folder that COPY copies from.
        arguments: values of the Dockerfile's ARGs.

    Raises:
        TestbedError: there is no Dockerfile, or a step of it failed.
    """
    with (CACHE / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _load(name, say, dockerfile(name, file), context, arguments or {})


def dockerfile(name: str, file: Path | None = None) -> Path:
    """Where an image of the project is described.

    Raises:
        TestbedError: nowhere.
    """
    found = file or CHECKOUT / "images" / name / "Dockerfile"
    if not found.is_file():
        raise TestbedError(f"there is no {found}; images/NAME/Dockerfile describes an image, or name one: --file")
    return found


def _load(name: str, say: Say, file: Path, context: Path, arguments: Mapping[str, str]) -> str:
    began = time.monotonic()
    identity = build_image(file, context, say, arguments)
    image = f"{REGISTRY}/llm360/{name}:{identity[:12]}"
    built = time.monotonic()
    if not is_pushed(image):
        buildah("tag", identity, image)
        push(image)
    say(f"{image}: built in {built - began:.1f} s, pushed in {time.monotonic() - built:.1f} s")
    return image
