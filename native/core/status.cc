#include "core/status.h"

namespace galvani {

const char* code_name(Code code) {
  switch (code) {
    case Code::kBadArgument: return "BAD_ARGUMENT";
    case Code::kBadConfig: return "BAD_CONFIG";
    case Code::kBadFile: return "BAD_FILE";
    case Code::kFileNotFound: return "FILE_NOT_FOUND";
    case Code::kShapeMismatch: return "SHAPE_MISMATCH";
    case Code::kTensorMissing: return "TENSOR_MISSING";
    case Code::kUnsupported: return "UNSUPPORTED";
    case Code::kAborted: return "ABORTED";
    case Code::kClosed: return "CLOSED";
    case Code::kOutOfMemory: return "OUT_OF_MEMORY";
    case Code::kIo: return "IO";
    case Code::kInternal: return "INTERNAL";
  }
  return "INTERNAL";
}

}  // namespace galvani
