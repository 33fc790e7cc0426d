"""Files that are no mace-torch models, by mistake or by malice: read as data, refused in words."""

import io
import os
import pickle
import struct
import subprocess
import zipfile

import pytest
import torch

from equiv.errors import EquivError, ModelFileError
from equiv.integrations.mace_torch import read_mace_torch
from equiv.integrations.mace_torch.conversion import convert_mace_torch


def archive(path, data, storages=None, *, compression=zipfile.ZIP_STORED, root="model"):
    """What torch.save makes of a pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{root}/data.pkl", data)
        file.writestr(f"{root}/byteorder", "little")
        for key, raw in (storages or {}).items():
            file.writestr(f"{root}/data/{key}", raw)
    return path


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def text(word):
    raw = word.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


PROTO, STOP, REDUCE, BUILD = b"\x80\x02", b".", b"R", b"b"
EMPTY_TUPLE, NEWOBJ, MARK, TUPLE, SETITEMS = b")", b"\x81", b"(", b"t", b"u"
MODULE = named("mace.modules.models", "ScaleShiftMACE") + EMPTY_TUPLE + NEWOBJ


def module(state):
    """A pickle of a module with these entries in its dictionary."""
    return PROTO + MODULE + b"}" + MARK + state + SETITEMS + BUILD + STOP


class Runs:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


MALICE = {
    "os.system": pickle.dumps(Runs(os.system, "touch ran"), 2),
    "os.system, protocol 4": pickle.dumps(Runs(os.system, "touch ran"), 4),
    "eval": pickle.dumps(Runs(eval, "open('ran', 'w')"), 2),
    "exec": pickle.dumps(Runs(exec, "open('ran', 'w')"), 2),
    "subprocess": pickle.dumps(Runs(subprocess.Popen, ["touch", "ran"]), 2),
    "open": pickle.dumps(Runs(io.open, "ran", "w"), 2),
    "named and not called": PROTO + named("os", "system") + STOP,
    "getattr of a module": PROTO
    + named("builtins", "getattr")
    + named("torch.nn.functional", "silu")
    + text("__globals__")
    + b"\x86"
    + REDUCE
    + STOP,
    "getattr of torch": PROTO
    + named("__builtin__", "getattr")
    + named("torch._C", "_VariableFunctionsClass")
    + text("load")
    + b"\x86"
    + REDUCE
    + STOP,
    "dotted name": PROTO + named("torch.nn.functional", "silu.__globals__") + STOP,
    "torch.load": PROTO + named("torch", "load") + text("x") + b"\x85" + REDUCE + STOP,
    "in an attribute": module(
        text("training") + pickle.dumps(Runs(os.system, "touch ran"), 2)[2:-1]
    ),
    "numpy's loader": PROTO + named("numpy", "load") + STOP,
    "old instance": PROTO + MARK + text("touch ran") + b"ios\nsystem\n" + STOP,
    "old object": PROTO + MARK + named("posix", "system") + text("touch ran") + b"o" + STOP,
    "extension": PROTO + b"\x82\x01" + STOP,
    "lambda in a hook": module(text("_forward_hooks") + named("types", "FunctionType")),
    "call of data": PROTO + b"]" + EMPTY_TUPLE + REDUCE + STOP,
    "out-of-band buffer": b"\x80\x05\x97" + STOP,
}


@pytest.mark.parametrize("data", MALICE.values(), ids=MALICE)
def test_malice_is_refused_and_nothing_of_it_is_run(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "evil.model", data)
    with pytest.raises(ModelFileError, match=r"evil\.model: .*(refused|no)"):
        read_mace_torch(path)
    assert os.listdir(tmp_path) == ["evil.model"]


def tuples_of_tuples():
    """A key of 2**100 parts in 300 bytes: hashing it would never end."""
    doubled = (
        b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) + b"0" for k in range(100)
    )
    grown = EMPTY_TUPLE + b"q\x000" + b"".join(doubled) + b"h" + bytes([100])
    return PROTO + b"}" + grown + b"N" + b"s" + STOP


def chain_of_modules(depth):
    """Modules within modules."""
    empty = text("_parameters") + b"}" + text("_buffers") + b"}"
    inner = MODULE + b"}" + MARK + empty + text("_modules") + b"}" + SETITEMS + BUILD
    for _ in range(depth):
        modules = b"}" + MARK + text("x") + inner + SETITEMS
        inner = MODULE + b"}" + MARK + empty + text("_modules") + modules + SETITEMS + BUILD
    return PROTO + inner + STOP


def module_of_itself():
    empty = text("_parameters") + b"}" + text("_buffers") + b"}"
    modules = b"}" + MARK + text("x") + b"h\x00" + SETITEMS
    state = b"}" + MARK + empty + text("_modules") + modules + SETITEMS
    return PROTO + MODULE + b"q\x00" + state + BUILD + STOP


def tensor(shape, stride, count=2, offset=0):
    """A pickle of a module with one buffer."""
    numbers = lambda ns: MARK + b"".join(b"J" + struct.pack("<i", n) for n in ns) + TUPLE  # noqa: E731
    storage = (
        MARK
        + text("storage")
        + named("torch", "DoubleStorage")
        + text("0")
        + text("cpu")
        + b"J"
        + struct.pack("<i", count)
        + TUPLE
        + b"Q"
    )
    made = (
        named("torch._utils", "_rebuild_tensor_v2")
        + MARK
        + storage
        + b"J"
        + struct.pack("<i", offset)
        + numbers(shape)
        + numbers(stride)
        + b"\x89N"
        + TUPLE
        + REDUCE
    )
    buffers = b"}" + MARK + text("r_max") + made + SETITEMS
    return module(text("_parameters") + b"}" + text("_buffers") + buffers + text("_modules") + b"}")


HUGE = {
    "endless bytes": (PROTO + b"\x8e" + struct.pack("<Q", 2**62) + b"x" + STOP, "damaged"),
    "endless text": (PROTO + b"\x8d" + struct.pack("<Q", 2**62) + b"x" + STOP, "damaged"),
    "far memo": (PROTO + b"Nr" + struct.pack("<I", 2**32 - 1) + STOP, "no torch module"),
    "endless key": (tuples_of_tuples(), "keys that are not plain"),
    "deep": (chain_of_modules(100), "without end"),
    "cyclic": (module_of_itself(), "without end"),
    "deep lists": (PROTO + b"]" * 10**5 + b"a" * (10**5 - 1) + STOP, "no torch module"),
    "stretched tensor": (tensor([2**30, 2**8], [0, 0]), "does not fit its storage"),
    "tensor beyond": (tensor([2], [1], offset=1), "does not fit its storage"),
    "long stride": (tensor([2], [2**20]), "does not fit its storage"),
    "negative": (tensor([2], [-1]), "no proper shape"),
    "large storage": (tensor([2], [1], count=2**30), "does not fit its storage"),
}


@pytest.mark.parametrize(("data", "words"), HUGE.values(), ids=HUGE)
def test_what_asks_for_the_world_is_refused_at_once(data, words, tmp_path):
    path = archive(tmp_path / "huge.model", data, {"0": bytes(16)})
    with pytest.raises(ModelFileError, match=words):
        read_mace_torch(path)


def test_the_tensors_of_these_tests_are_well_formed_otherwise(tmp_path):
    path = archive(tmp_path / "fine.model", tensor([2], [1]), {"0": bytes(16)})
    with pytest.raises(ModelFileError, match="lacks interactions"):
        read_mace_torch(path)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_truncated_pickle_is_damaged(cut, tmp_path):
    whole = chain_of_modules(3)
    path = archive(tmp_path / "cut.model", whole[: max(len(whole) - cut, 2)])
    with pytest.raises(ModelFileError, match=r"damaged|refused"):
        read_mace_torch(path)


def saved(value, path, **options):
    torch.save(value, path, **options)
    return path


def scripted(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    return path


def written(path, content):
    path.write_bytes(content)
    return path


FOREIGN = {
    "legacy": (
        lambda p: saved({"x": 1}, p, _use_new_zipfile_serialization=False),
        "before torch 1.6.*torch.save",
    ),
    "compiled": (scripted, "TorchScript.*without `_compiled`"),
    "checkpoint": (lambda p: saved({"model": {}, "optimizer": {}}, p), "checkpoint of a training"),
    "state dict": (lambda p: saved({"a": torch.ones(2)}, p), "a dictionary, not a model"),
    "another module": (lambda p: saved(torch.nn.Conv2d(1, 1, 1), p), "conv.Conv2d.*refused"),
    "tensor": (lambda p: saved(torch.ones(3), p), "no torch module"),
    "empty": (lambda p: written(p, b""), "empty"),
    "text": (lambda p: written(p, b"hello there"), "not a file that torch.save wrote"),
    "web page": (lambda p: written(p, b"<!DOCTYPE html><html>"), "web page"),
    "safetensors": (lambda p: written(p, struct.pack("<Q", 80) + b'{"x":{}'), "safetensors"),
    "truncated": (
        lambda p: written(p, saved(torch.ones(99), p).read_bytes()[:300]),
        "truncated or damaged",
    ),
    "some zip": (lambda p: archive(p, b"", root="a/b"), "not one that torch.save wrote"),
    "compressed": (
        lambda p: archive(p, bytes(10**6), compression=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "dipoles": (
        lambda p: archive(p, PROTO + named("mace.modules.models", "AtomicDipolesMACE") + STOP),
        "AtomicDipolesMACE; only the potentials",
    ),
    "long range": (
        lambda p: archive(p, PROTO + named("mace.modules.extensions", "PolarMACE") + STOP),
        "PolarMACE has long-range terms",
    ),
    "accelerated": (
        lambda p: archive(p, PROTO + named("cuequivariance_torch.layers", "Linear") + STOP),
        "mace_cueq_to_e3nn",
    ),
    "low rank": (
        lambda p: archive(p, PROTO + named("mace.modules.lora", "LoRADenseLinear") + STOP),
        "merge_lora_weights",
    ),
}


@pytest.mark.parametrize(("make", "words"), FOREIGN.values(), ids=FOREIGN)
def test_other_files_are_told_apart_with_a_remedy(make, words, tmp_path):
    path = make(tmp_path / "other.model")
    with pytest.raises(ModelFileError, match=f"(?s)other.model: .*{words}"):
        convert_mace_torch(path)


def test_folders_and_absent_files_are_refused(tmp_path):
    with pytest.raises(EquivError, match="is a folder"):
        convert_mace_torch(tmp_path)
    with pytest.raises(EquivError, match="no such file"):
        convert_mace_torch(tmp_path / "none.model")
