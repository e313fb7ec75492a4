"""Our kernels through the backend's C table, on torch tensors: `backend.call('attn_mma', params)`.

Device pointers are data_ptr() of tensors on `backend.device`: cuda for the real library, cpu for the emulated one.
"""

import ctypes

import torch

from abi import Abi


class Backend:
    def __init__(self, path, abi=None):
        self.abi = abi or Abi()
        self.structs, self.constants = self.abi.structs, self.abi.constants
        self.library = ctypes.CDLL(str(path))
        getter = self.library.galvani_backend
        getter.restype, getter.argtypes = ctypes.POINTER(self.structs["Backend"]), [ctypes.c_uint32]
        table = getter(self.constants["kBackendAbi"])
        if not table:
            raise RuntimeError(f"{path} does not serve backend ABI {self.constants['kBackendAbi']}")
        self.table = table.contents
        if self.table.size != ctypes.sizeof(self.structs["Backend"]):
            raise RuntimeError(f"{path}: its table has {self.table.size} bytes, the header's has "
                               f"{ctypes.sizeof(self.structs['Backend'])}: rebuild it")
        self.name = self.table.name.decode()
        self.targets = self.table.targets.decode()
        self.emulated = self.name != "cuda"
        self.device = torch.device("cpu" if self.emulated else "cuda")

    def info(self):
        info = self.structs["DeviceInfo"]()
        self._check("device_info", self.table.device_info(0, ctypes.byref(info)))
        fields = {name: getattr(info, name) for name, *_ in info._fields_}
        return {k: v.decode() if isinstance(v, bytes) else v for k, v in fields.items()}

    def params(self, name, **values):
        """A struct of the headers; tensors become pointers, which stay alive with it."""
        struct = self.structs[name]()
        self.set(struct, **values)
        return struct

    def set(self, struct, **values):
        keep = struct.__dict__.setdefault("_keep", {}) if hasattr(struct, "__dict__") else {}
        known = {field[0] for field in struct._fields_}
        for key, value in values.items():
            if key not in known:
                raise KeyError(f"{type(struct).__name__} has no field '{key}'")
            if isinstance(value, torch.Tensor):
                if value.device.type != self.device.type:
                    raise ValueError(f"{key}: expected a tensor on {self.device}, got one on {value.device}")
                keep[key], value = value, value.data_ptr()
            setattr(struct, key, value)

    def call(self, op, params, stream=None):
        """Launches on the current stream."""
        if stream is None and not self.emulated:
            stream = torch.cuda.current_stream().cuda_stream
        self._check(op, getattr(self.table, op)(ctypes.byref(params), stream))

    def _check(self, op, code):
        if code != 0:
            raise RuntimeError(f"{op}: {self.table.last_error().decode()} (code {code})")

    def synchronize(self):
        if not self.emulated:
            torch.cuda.synchronize()
