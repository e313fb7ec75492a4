// cuSOLVER's symmetric eigensolver, where the user asks for it: GALVANI_CUSOLVER=auto looks for the library where cuBLASLt is
// looked for, a path names it. Unset or empty: Gram matrices come back from the device and the CPU's routine takes them (ops/
// eigen.h, or GALVANI_LAPACK's), whatever is installed, so that results never change behind a user's back. Asked for and
// unusable: every spectrum that would need it is an error that says why.
#pragma once
#include <string>

#include "ops/gpu/weights_types.h"

namespace galvani::gpu::cusolver {

// Of this process: the library is opened once.
const EigenStatus& status();

// Fills in the bytes of both workspaces, for matrix, values, k and vectors as given. 0; kUnsupported when it is not asked for;
// kRefused with a message.
int workspace(EigenParams& p, int device);
// Launches on the stream; `device` is the current one. As workspace().
int eigen(const EigenParams& p, int device, void* stream);

}  // namespace galvani::gpu::cusolver
