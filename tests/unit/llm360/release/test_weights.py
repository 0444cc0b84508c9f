"""The manifest of weights that a run begins with."""

import pytest

from llm360.canonical import sha256_digest
from llm360.errors import InputError, SpecError
from llm360.release.checkpoint import TensorRecord, tensors_digest
from llm360.release.weights import WeightsManifest, check_weights, load_weights_manifest
from llm360.spec import load_run, resolve
from llm360.storage import StorageOptions, open_storage

TENSOR = TensorRecord(
    name="model.norm.weight", file="a.safetensors", dtype="F32", shape=(2,), sha256=sha256_digest(b"")
)


@pytest.fixture
def weights(tmp_path):
    """Stores a manifest of a model; returns what a specification says of it."""

    def store(**model):
        manifest = WeightsManifest(
            source="model", form="llama", model=model, tensors=(TENSOR,), model_digest=tensors_digest([TENSOR])
        )
        open_storage(str(tmp_path)).put("manifest.json", manifest.encode())
        return {"uri": tmp_path.as_uri(), "digest": sha256_digest(manifest.encode())}

    return store


def begin(weights):
    overrides = [f"model.weights.{name}={value}" for name, value in weights.items()]
    return load_run("amber-tiny", overrides, store="file:///release")


def test_what_is_stored_is_read_again(weights, tmp_path):
    stated = weights(hiddenSize=128)
    manifest = load_weights_manifest(open_storage(str(tmp_path)), stated["digest"])
    assert (manifest.form, manifest.model, manifest.tensors) == ("llama", {"hiddenSize": 128}, (TENSOR,))
    check_weights(begin(stated), StorageOptions())


def test_weights_are_part_of_the_identity(weights):
    plain = load_run("amber-tiny", store="file:///release")
    assert begin(weights(hiddenSize=128)).identity_digest() != plain.identity_digest()


def test_what_differs_is_named(weights):
    with pytest.raises(InputError, match=r"spec\.model\.hiddenSize is 128, but the weights at .* with 64") as caught:
        check_weights(begin(weights(hiddenSize=64)), StorageOptions())
    assert caught.value.reason == "WeightsDiffer"
    check_weights(begin(weights(maxPositionEmbeddings=64)), StorageOptions())


def test_something_else_than_a_manifest_is_refused(weights, tmp_path):
    (tmp_path / "manifest.json").write_bytes(b"{}")
    with pytest.raises(InputError, match="is no manifest of weights: source: Field required"):
        load_weights_manifest(open_storage(str(tmp_path)), sha256_digest(b"{}"))


def test_a_path_without_scheme_is_refused_where_a_pod_reads_it(weights):
    document = begin(weights(hiddenSize=128)).document()
    document["spec"]["model"]["weights"]["uri"] = "weights"
    with pytest.raises(SpecError, match=r"spec\.model\.weights\.uri: 'weights' is a path and a pod has its own"):
        resolve(document)
