"""A stand-in for a GPU, so that code and tests can be run as on a machine with one:

    python -m pytest -p tests.standin tests/test_session1.py

Its tensors compute on the CPU, under the device name "standin", and refuse what a GPU's refuse: to be
mixed with CPU tensors, to become NumPy arrays, to draw from a CPU generator. `utils.get_device()` finds it
while `on` is set. It can't show what else a GPU does: other roundings, cuDNN, asynchrony, its own seeds.
"""

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyPrivateUse1Hook, _setup_privateuseone_for_python_backend

on = False  # is the stand-in the accelerator that get_device finds?


class Standin(torch.Tensor):
    """A tensor on the stand-in: a shell of the right shape and strides around `inner`, a tensor on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # or it would turn results on the CPU into Standin

    @staticmethod
    def __new__(cls, inner):
        how = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        with torch.inference_mode(inner.is_inference()):  # where a view of a tensor from before is none of inference
            shell = cls._make_wrapper_subclass(cls, inner.size(), **how, device=torch.device("standin", 0))
        shell.inner = inner
        return shell

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        parts = op.decompose(*args, **kwargs or {})  # in inference mode composite ops come here, too
        return _compute(op, args, kwargs or {}) if parts is NotImplemented else parts

    def numpy(self, **_):
        raise TypeError("can't convert standin:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self):  # refused for subclasses, for no reason that holds here
        return self.inner.tolist()

    def __format__(self, how):  # as a number, like any tensor of one
        return self.inner.__format__(how)

    def __reduce_ex__(self, protocol):  # saved as a tensor on the CPU, as loading with map_location="cpu" would give
        return self.inner.__reduce_ex__(protocol)

    def as_subclass(self, kind):  # torchvision takes it for an image without being told
        return self

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, new):  # what Module.to assigns when only the memory format changes
        torch.Tensor.data.__set__(self, new)
        self.inner = new.inner

    def __repr__(self):
        return f"{self.inner!r} on the stand-in"


def _compute(op, args, kwargs):
    """Run the op on the CPU; its result lies where the stand-in's tensors do, or where `device` says."""
    _check(op, args, kwargs)
    here = kwargs.get("device") is None or kwargs["device"].type == "standin"
    if here and "device" in kwargs:
        kwargs = {**kwargs, "device": "cpu"}
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    given = {id(each.inner if isinstance(each, Standin) else each): each for each in tensors}

    def wrap(result):
        if not here or not isinstance(result, torch.Tensor):
            return result
        if id(result) not in given:
            return Standin(result)
        written = given[id(result)]  # comes back as it was given
        if written.shape != result.shape or written.stride() != result.stride():  # unsqueeze_, resize_ and so on
            torch.Tensor.data.__set__(written, Standin(result))
        return written

    args, kwargs = tree_map(lambda each: each.inner if isinstance(each, Standin) else each, (args, kwargs))
    return tree_map(wrap, op(*args, **kwargs))


def _check(op, args, kwargs):
    """Raise RuntimeError where a GPU does. It takes a single number from the CPU, neither to write to nor in a list."""
    name = op.overloadpacket.__name__
    if kwargs.get("generator") is not None:
        raise RuntimeError("Expected a 'standin' device type for generator but found 'cpu'")
    if name in ("copy_", "_to_copy"):
        return
    if name in ("index", "index_put", "index_put_") and isinstance(args[0], Standin):
        args = (args[0], *args[2:])  # the indices may lie on the CPU
    single = {id(each) for each in args[op._schema.is_mutable :] if isinstance(each, torch.Tensor) and each.ndim == 0}
    for each in tree_leaves((args, kwargs)):
        if isinstance(each, torch.Tensor) and not isinstance(each, Standin) and id(each) not in single:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, standin:0 and cpu!"
                f" (in {op})"
            )


def _copy_from(source, target, non_blocking=False):
    """What torch.tensor(…, device=…) calls to fill its result."""
    target.inner.copy_(source.inner if isinstance(source, Standin) else source)
    return target


class _Module:
    """What PyTorch looks for under torch.standin."""

    is_available = is_initialized = staticmethod(lambda: on)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)  # it draws from the CPU's generator
    get_rng_state = staticmethod(lambda device: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device: torch.set_rng_state(state))
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


class _Hook(_DummyPrivateUse1Hook):
    def is_available(self):
        return on


def install():
    """Register the device, once in a process."""
    if hasattr(torch, "standin"):
        return
    _setup_privateuseone_for_python_backend("standin", _Module(), _Hook())
    library = torch.library.Library("aten", "IMPL")
    # Any op with a stand-in tensor comes to Standin; these have none: the factories, which all fill an empty tensor.
    for op in (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_strided.default):
        library.impl(op, lambda *args, op=op, **kwargs: _compute(op, args, kwargs), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    library.impl("_pin_memory", lambda tensor, device=None: tensor.clone(), "CPU")  # the stand-in reads any memory
    _Module.library = library  # the registrations last as long as it does


def pytest_configure():
    """As a plugin it is on from the start."""
    global on
    install()
    on = True
