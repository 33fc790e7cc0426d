"""Model files: what is written comes back exactly, and nothing else is ever believed."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import tracemalloc
import zipfile

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import equiv
from equiv.errors import EquivError, ModelFileError
from equiv.models import MACE, build_model
from equiv.models.file import load_model, read_header, save_model, verify_model
from equiv.models.header import (
    FORMAT_VERSION,
    MAX_HEADER_BYTES,
    header_checksum,
    parse_header,
)

RECIPE = {
    "elements": ["H", "O"],
    "cutoff": 4.0,
    "channels": 2,
    "edge_degree": 2,
    "correlation": 2,
    "radial_hidden": [4],
    "readout_hidden": 3,
    "mean_neighbors": 7.5,
    "reference_energies": {"H": -13.6, "O": -432.1},
}


def make_model(seed=0, dtype=torch.float32, **changes):
    return build_model("mace", seed=seed, dtype=dtype, **{**RECIPE, **changes})


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a small model file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(make_model(), path, card={"licence": "MIT"})
    return path.read_bytes()


def split(content):
    """The header as a dictionary and the payload of a model file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header, payload):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def forge(content, *, document=None, tensors=None, payload=None, version=FORMAT_VERSION):
    """A file as a forger makes it: changed wherever asked, with every checksum in order again."""
    header, old_payload = split(content)
    payload = old_payload if payload is None else payload
    metadata = header.pop("__metadata__")
    table = header if tensors is None else tensors(header)
    text = json.loads(metadata["header"])
    text = {**text, "sha256": hashlib.sha256(payload).hexdigest(), **(document or {})}
    metadata["header"] = json.dumps(text)
    metadata["format_version"] = str(version)
    entries = parse_entries(table)
    metadata["checksum"] = header_checksum(version, metadata["header"], entries)
    return join({"__metadata__": metadata, **table}, payload)


def parse_entries(table):
    from equiv.models.header import TensorEntry

    return {
        name: TensorEntry(e["dtype"], tuple(e["shape"]), *e["data_offsets"])
        for name, e in table.items()
    }


def refusal(tmp_path, content, read=load_model):
    """The message with which a file of this content is refused."""
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_model_comes_back_exactly(tmp_path, dtype):
    model = make_model(dtype=dtype)
    model.save(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert type(loaded) is MACE
    assert loaded.dtype == dtype
    assert not loaded.training
    assert (loaded.recipe, loaded.elements, loaded.cutoff) == (model.recipe, (1, 8), 4.0)
    stored, original = dict(loaded.named_parameters()), dict(model.named_parameters())
    assert stored.keys() == original.keys()
    for name, value in original.items():
        assert torch.equal(stored[name], value), name
    for (name, a), (_, b) in zip(loaded.named_buffers(), model.named_buffers(), strict=True):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


def test_a_model_keeps_weights_apart_from_its_random_initial_ones(tmp_path):
    model = make_model(seed=1)
    model.save(tmp_path / "model.safetensors")
    loaded, fresh = load_model(tmp_path / "model.safetensors"), make_model(seed=2)
    assert torch.equal(loaded.embedding, model.embedding)
    assert not torch.equal(loaded.embedding, fresh.embedding)


def test_the_package_offers_both_by_name(tmp_path):
    equiv.save_model(make_model(), tmp_path / "model.safetensors")
    assert equiv.load_model(tmp_path / "model.safetensors").cutoff == 4.0


def test_equal_models_give_equal_bytes(tmp_path, content):
    save_model(make_model(), tmp_path / "again.safetensors", card={"licence": "MIT"})
    assert (tmp_path / "again.safetensors").read_bytes() == content


def test_the_header_says_everything_about_the_model(tmp_path):
    model = make_model()
    model.card = {"level_of_theory": "PBE", "licence": "unknown"}
    save_model(model, tmp_path / "model.safetensors", card={"licence": "MIT"})
    header = read_header(tmp_path / "model.safetensors")
    assert header.format_version == 1
    assert header.equiv_version == equiv.__version__
    assert header.model == "mace"
    assert header.recipe == model.recipe
    assert header.dtype == "float32"
    assert header.elements == (1, 8)
    assert header.cutoff == 4.0
    assert header.units == {"energy": "eV", "length": "Angstrom"}
    assert header.reference_energies == {"H": -13.6, "O": -432.1}
    assert header.card == {"level_of_theory": "PBE", "licence": "MIT"}
    assert header.parameters == sum(p.numel() for p in model.parameters())
    assert load_model(tmp_path / "model.safetensors").card == header.card


def test_other_programs_can_read_the_weights(tmp_path, content):
    tensors = safetensors.torch.load(content)
    state = make_model().state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_dtype_and_device_can_be_chosen(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert load_model(path, dtype="float64", device="cpu").dtype == torch.float64
    assert load_model(path, dtype=torch.float32).dtype == torch.float32
    with pytest.raises(EquivError, match="float32 or float64, got float16"):
        load_model(path, dtype="float16")
    with pytest.raises(EquivError, match="device warp cannot be used"):
        load_model(path, device="warp")


def test_loading_leaves_the_random_numbers_of_the_user_alone(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    before = torch.random.get_rng_state()
    load_model(path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, content, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(make_model(seed=3), path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_saved_is_refused(tmp_path):
    model = make_model()
    with pytest.raises(EquivError, match=r"the folder .* does not exist"):
        save_model(model, tmp_path / "nowhere" / "model.safetensors")
    with pytest.raises(EquivError, match="is a folder"):
        save_model(model, tmp_path)
    with pytest.raises(EquivError, match="cannot be written as JSON"):
        save_model(model, tmp_path / "model.safetensors", card={"errors": object()})
    with pytest.raises(EquivError, match="cannot be written as JSON"):
        save_model(model, tmp_path / "model.safetensors", card={"errors": float("nan")})
    with torch.no_grad():
        model.embedding[0, 0] = float("inf")
    with pytest.raises(EquivError, match="embedding holds values that are not finite"):
        save_model(model, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def zip_bomb():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(10**7))
    return stream.getvalue()


def torch_checkpoint():
    stream = io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, stream)
    return stream.getvalue()


FOREIGN = {
    "empty": (b"", "the file is empty"),
    "few bytes": (b"abc", "has 3 bytes and cannot hold a model"),
    "zip bomb": (zip_bomb(), "zip archive"),
    "torch checkpoint": (torch_checkpoint(), "never unpickles"),
    "pickle": (pickle.dumps({"weights": list(range(100))}), "a pickle"),
    "old pickle": (pickle.dumps({"weights": list(range(100))}, protocol=0), "does not begin as"),
    "gzip": (gzip.compress(b"weights" * 100), "gzip archive"),
    "web page": (b"\n<!DOCTYPE html><html><body>404 not found</body></html>", "web page"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "text": (b"lattice constants of silicon and other matters", "does not begin as"),
    "zeros": (bytes(1000), "does not begin as"),
    "huge header": ((2**60).to_bytes(8, "little") + b'{"a":1}', "header claims"),
    "header beyond the end": ((5000).to_bytes(8, "little") + b'{"a":1}', "truncated"),
    "other safetensors": (safetensors.torch.save({"a": torch.ones(2)}), "not an equiv model"),
    "no json": (join({}, b"").replace(b"{}", b"{]"), "not valid JSON"),
    "deep json": (
        (40_001).to_bytes(8, "little") + b'{"a":' + b"[" * 39_996,
        "not valid JSON",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_a_model_file_is_refused_by_name(tmp_path, kind):
    data, expected = FOREIGN[kind]
    assert expected in refusal(tmp_path, data)
    assert expected in refusal(tmp_path, data, read_header)


def test_paths_that_are_no_files_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="there is no such file"):
        load_model(tmp_path / "missing.safetensors")
    with pytest.raises(ModelFileError, match="is a folder"):
        load_model(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        load_model(tmp_path / "pipe")


def test_a_newer_format_asks_for_an_upgrade(tmp_path, content):
    message = refusal(tmp_path, forge(content, version=FORMAT_VERSION + 1))
    assert "upgrade equiv" in message
    assert f"version {FORMAT_VERSION + 1}" in message


def test_a_forged_copy_without_changes_loads(tmp_path, content):
    """The forger of these tests does make files that pass, so each refusal has its own reason."""
    path = tmp_path / "forged.safetensors"
    path.write_bytes(forge(content))
    assert load_model(path).elements == (1, 8)


def test_an_edited_description_is_noticed(tmp_path, content):
    edited = content.replace(b"-13.6", b"-13.7")
    assert edited != content
    assert "checksum" in refusal(tmp_path, edited)


def test_changed_weights_are_noticed(tmp_path, content):
    changed = content[:-1] + bytes([content[-1] ^ 1])
    assert "sha256" in refusal(tmp_path, changed)
    assert "sha256" in refusal(tmp_path, changed, verify_model)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"model": "os.system"}, "a model of type 'os.system', unknown"),
        ({"dtype": "float16"}, "dtype should be float32 or float64"),
        ({"elements": [8, 1]}, "elements should be ascending"),
        ({"elements": [1, 6, 8]}, "disagree"),
        ({"elements": [True, 8]}, "elements should be ascending"),
        ({"cutoff": -1.0}, "cutoff should be a length"),
        ({"cutoff": 10**400}, "cutoff should be a length"),
        ({"cutoff": 5.0}, "disagree"),
        ({"units": {"energy": "Ha", "length": "Angstrom"}}, "units should be"),
        ({"reference_energies": {"H": "low"}}, "reference_energies should be"),
        ({"recipe": []}, "recipe should be a mapping"),
        ({"card": "none"}, "card should be a mapping"),
        ({"surprise": 1}, "does not hold exactly"),
    ],
)
def test_a_false_description_is_refused(tmp_path, content, document, expected):
    assert expected in refusal(tmp_path, forge(content, document=document))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"channels": 10**9}, "channels = 1000000000, which the"),
        ({"channels": 500}, "far larger than its weights"),
        ({"channels": 4}, "should have shape"),
        ({"layers": 10**6}, "layers = 1000000, which the"),
        ({"layers": 900}, "far larger"),
        ({"layers": 1}, "has extra"),
        ({"layers": 3}, "misses"),
        ({"layers": -1}, "could be built"),
        ({"num_radial": 10**12}, "num_radial = 1000000000000"),
        ({"radial_hidden": [10**9]}, "radial_hidden = 1000000000"),
        ({"radial_hidden": [900, 900, 900, 900]}, "far larger"),
        ({"edge_degree": 900}, "12 at most"),
        ({"edge_degree": 12, "correlation": 4}, "2 GiB"),
        ({"correlation": 99}, "1, 2, 3 or 4"),
        ({"channels": "2"}, "could be built"),
        ({"channels": None}, "could be built"),
        ({"channels": [2]}, "could be built"),
        ({"channels": {"2": 2}}, "could be built"),
        ({"elements": []}, "could be built"),
        ({"elements": ["H", "Xx"]}, "could be built"),
        ({"product": "__import__('os')"}, "expected one of"),
        ({"weights": "rm -rf"}, "could be built"),
        ({"self": 1}, "could be built"),
    ],
)
def test_a_hostile_recipe_is_refused_without_memory(tmp_path, content, changes, expected):
    recipe = {**make_model().recipe, **changes}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert expected in refusal(tmp_path, forge(content, document={"recipe": recipe}))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024  # KiB on Linux


def rename(old, new):
    def change(table):
        return {new if name == old else name: entry for name, entry in table.items()}

    return change


def alter(name, **changes):
    def change(table):
        return {**table, name: {**table[name], **changes}}

    return change


def slide(name, by):
    def change(table):
        offsets = [offset + by for offset in table[name]["data_offsets"]]
        return alter(name, data_offsets=offsets)(table)

    return change


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (rename("embedding", "embeddings"), "misses embedding and has extra embeddings"),
        (alter("embedding", shape=[4, 1]), "embedding should have shape (2, 2)"),
        (alter("embedding", shape=[2, 3]), "do not fit its place"),
        (alter("embedding", shape=[-2, -2]), "no usable shape"),
        (alter("embedding", shape=[2**47, 2**47]), "do not fit its place"),
        (alter("embedding", shape=[1] * 1000), "no usable shape"),
        (alter("embedding", dtype="I32"), "stored as torch.int32"),
        (alter("embedding", dtype="C64"), "not one of"),
        (slide("layers.0.linear.weights.0", -4), "overlaps"),
        (slide("layers.0.linear.weights.0", 4), "overlaps|leaves a gap"),
        (alter("embedding", data_offsets=[10**9, 10**9 + 16]), "leaves a gap"),
        (lambda table: {**table, "more": table["embedding"]}, "overlaps"),
        (lambda table: {k: v for k, v in table.items() if k != "embedding"}, "truncated|gap"),
    ],
)
def test_a_false_tensor_table_is_refused(tmp_path, content, tensors, expected):
    message = refusal(tmp_path, forge(content, tensors=tensors))
    assert any(part in message for part in expected.split("|"))


def test_weights_that_are_not_numbers_are_refused(tmp_path, content):
    payload = bytearray(split(content)[1])
    payload[:4] = b"\x00\x00\xc0\x7f"
    assert "not finite" in refusal(tmp_path, forge(content, payload=bytes(payload)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format":', b'"format": "equiv.model", "format":'),
        (b'"F32"', b"NaN"),
        (b'"F32"', b'"F\xff2"'),
        (b'"F32"', b"9" * 5000),
    ],
)
def test_json_that_readers_could_disagree_on_is_refused(tmp_path, content, old, new):
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].replace(old, new, 1)
    refusal(tmp_path, len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_too_many_tensors_are_refused(tmp_path, content):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    table = {str(i): entry for i in range(10_001)}
    assert "10001 tensors" in refusal(tmp_path, join(table, b""))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(tmp_path, content, data):
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    refusal(tmp_path, bytes(damaged), verify_model)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_truncated_or_extended_file_is_read(tmp_path, content, data):
    length = data.draw(st.integers(0, len(content) - 1))
    refusal(tmp_path, content[:length], read_header)
    refusal(tmp_path, content + bytes(length + 1), read_header)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "I64", "X"]) | JSON,
        "shape": st.lists(st.integers(-1, 2**70), max_size=4) | JSON,
        "data_offsets": st.lists(st.integers(-1, 2**70), max_size=3) | JSON,
    }
)
METADATA = st.fixed_dictionaries(
    {
        "format": st.just("equiv.model") | JSON,
        "format_version": st.sampled_from(["1", "2", "", "-1", "x", "９"]) | JSON,
        "header": st.text(max_size=30) | JSON,
        "checksum": JSON,
    }
)


@settings(max_examples=200, deadline=None)
@given(
    table=st.dictionaries(st.text(max_size=5), ENTRY | JSON, max_size=4),
    metadata=METADATA | JSON,
    payload=st.integers(0, 2**40),
)
def test_no_header_does_more_than_be_refused(table, metadata, payload):
    text = json.dumps({**table, "__metadata__": metadata}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            parse_header(text, payload)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.dictionaries(
        st.sampled_from([*make_model().recipe, "other"]),
        JSON.filter(
            lambda value: json.dumps(value).find("NaN") < 0 and json.dumps(value).find("Inf") < 0
        ),
        min_size=1,
        max_size=3,
    )
)
def test_no_recipe_does_more_than_build_a_model_or_be_refused(tmp_path, content, changes):
    path = tmp_path / "strange.safetensors"
    path.write_bytes(forge(content, document={"recipe": {**make_model().recipe, **changes}}))
    with contextlib.suppress(ModelFileError):
        load_model(path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(tmp_path, data):
    refusal(tmp_path, data)


def test_the_largest_header_allowed_is_read_in_bounded_memory(tmp_path):
    text = b"{" + b'"a":[' + b"0," * (MAX_HEADER_BYTES // 2 - 10) + b"0]}"
    tracemalloc.start()
    try:
        refusal(tmp_path, len(text).to_bytes(8, "little") + text)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()
