"""The C structs and the backend's function table, read from the headers themselves.

The headers stay the only description: their plain structs are parsed into ctypes, and a generated C++ program prints
sizeof and offsetof of everything parsed, which must be equal before anything runs (`Abi.verify`).
"""

import ctypes
import json
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADERS = [
    "native/ops/gpu/attn_types.h",
    "native/ops/gpu/dense_types.h",
    "native/ops/gpu/weights_types.h",
    "native/device/backend.h",
    "native/device/attn_plan.h",
    "bench/gpu/plan_abi.h",
]

SCALARS = dict(
    int8_t=ctypes.c_int8,
    uint8_t=ctypes.c_uint8,
    int16_t=ctypes.c_int16,
    uint16_t=ctypes.c_uint16,
    int32_t=ctypes.c_int32,
    uint32_t=ctypes.c_uint32,
    int64_t=ctypes.c_int64,
    uint64_t=ctypes.c_uint64,
    float=ctypes.c_float,
    double=ctypes.c_double,
    char=ctypes.c_char,
    int=ctypes.c_int,
    bool=ctypes.c_bool,
)


class Abi:
    """`structs` and `constants` of the headers by name. Pointers are c_void_p, so data_ptr() of a tensor fits."""

    def __init__(self, headers=HEADERS, root=ROOT):
        self.root, self.headers = Path(root), list(headers)
        self.structs, self.constants, self.enums = {}, {}, {}
        for header in self.headers:
            text = re.sub(r"//[^\n]*", "", (self.root / header).read_text())
            for name, value in re.findall(r"inline constexpr \w+ (k\w+) = (\d+);", text):
                self.constants[name] = int(value)
            for name, kind in re.findall(r"^enum class (\w+) : (\w+) \{", text, re.M):
                self.enums[name] = SCALARS[kind]
            for name, body in re.findall(r"^struct (\w+) \{(.*?)^\};", text, re.S | re.M):
                if "std::" in body:
                    continue  # C++ only: nothing crosses the border in it
                self.structs[name] = self._struct(header, name, body)

    def _struct(self, header, name, body):
        fields = []
        for statement in filter(None, (" ".join(part.split()) for part in body.split(";"))):
            function = re.fullmatch(r"[\w ]+\*? ?\(\*(\w+)\)\((.*)\)", statement)
            if function:
                fields.append((function[1], self._function(statement, function[2])))
                continue
            match = re.fullmatch(r"(?:const )?(\w+)( const)?(\*?) (.+)", statement)
            if not match:
                raise ValueError(f"{header}: {name}: cannot read '{statement}'")
            base, pointer = match[1], match[3]
            for declarator in match[4].split(","):
                field, count = re.fullmatch(r" *(\w+)(?:\[(\w+)\])?(?: = [^,]+)?", declarator).groups()
                kind = self._type(base, pointer)
                if count:
                    kind = kind * (int(count) if count.isdigit() else self.constants[count])
                fields.append((field, kind))
        return type(name, (ctypes.Structure,), {"_fields_": fields})

    def _type(self, base, pointer):
        if pointer:
            return ctypes.c_char_p if base == "char" else ctypes.c_void_p
        if base in SCALARS:
            return SCALARS[base]
        if base in self.enums:
            return self.enums[base]
        if base in self.structs:
            return self.structs[base]
        raise ValueError(f"unknown type '{base}'")

    def _function(self, statement, arguments):
        kinds = []
        for argument in filter(None, (a.strip() for a in arguments.split(","))):
            base, stars = re.fullmatch(r"(?:const )?(\w+) ?(\**) ?\w*", argument).groups()
            if not stars:
                kinds.append(SCALARS[base])
            elif base in self.structs:
                kinds.append(ctypes.POINTER(self.structs[base]))
            elif base == "void" and stars == "**":
                kinds.append(ctypes.POINTER(ctypes.c_void_p))
            elif base in SCALARS:
                kinds.append(ctypes.POINTER(SCALARS[base]))
            else:
                kinds.append(ctypes.c_void_p)
        result = ctypes.c_char_p if statement.startswith("const char*") else ctypes.c_int
        return ctypes.CFUNCTYPE(result, *kinds)

    def layout(self):
        """name → {size, fields: {field: [offset, size]}}, as ctypes has it."""
        return {
            name: dict(
                size=ctypes.sizeof(struct),
                fields={f[0]: [getattr(struct, f[0]).offset, getattr(struct, f[0]).size] for f in struct._fields_},
            )
            for name, struct in self.structs.items()
        }

    def compiled_layout(self, compiler="g++"):
        """The same, as the compiler has it."""
        lines = [f'#include "{h}"' for h in self.headers]
        lines += ["#include <cstddef>", "#include <cstdio>", "using namespace galvani::gpu;", "int main() {"]
        lines += [r'  std::printf("{\n");']
        for s, (name, struct) in enumerate(self.structs.items()):
            lines.append(rf'  std::printf("%s\"{name}\": {{\"size\": %zu, \"fields\": {{", "{"," if s else ""}", sizeof({name}));')
            for i, (field, *_) in enumerate(struct._fields_):
                comma = ", " if i else ""
                lines.append(
                    rf'  std::printf("{comma}\"{field}\": [%zu, %zu]", offsetof({name}, {field}), sizeof({name}::{field}));'
                )
            lines.append(r'  std::printf("}}\n");')
        lines += [r'  std::printf("}\n");', "}"]
        with tempfile.TemporaryDirectory() as folder:
            source, program = Path(folder, "layout.cc"), Path(folder, "layout")
            source.write_text("\n".join(lines))
            include = [f"-I{self.root}", f"-I{self.root / 'native'}"]
            subprocess.run([compiler, "-std=c++20", *include, str(source), "-o", str(program)], check=True)
            return json.loads(subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout)

    def verify(self, compiler="g++"):
        """Raises unless every size and offset agrees; returns how many were compared."""
        ours, theirs = self.layout(), self.compiled_layout(compiler)
        compared = 0
        for name, struct in theirs.items():
            if ours[name] != struct:
                raise AssertionError(f"{name}: ctypes has {ours[name]}, the compiler {struct}")
            end = max(offset + size for offset, size in struct["fields"].values())
            if struct["size"] - end >= 8:
                raise AssertionError(f"{name}: {struct['size'] - end} bytes at its end belong to no field")
            compared += 1 + len(struct["fields"])
        return compared


if __name__ == "__main__":
    abi = Abi()
    print(f"{abi.verify()} sizes and offsets of {len(abi.structs)} structs agree with the compiler")
