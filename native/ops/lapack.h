// LAPACK's symmetric eigensolver, where the user asks for it: GALVANI_LAPACK names a shared library (a path, or a name for
// the loader such as libopenblas.so.0), opened by dlopen at first use. Unset or empty: the own routine of ops/eigen.h, whatever
// is installed, so that results never change behind a user's back. Set but unusable: every spectrum that would need it
// is an UNSUPPORTED error that says why.
//
// Recognised, the first that the library has (LAPACK's own name, the ILP64 suffix, and both as SciPy's wheels spell them):
//   dsyevd_64_   dsyevd_   scipy_dsyevd_64_   scipy_dsyevd_
// The width of its integers is not guessed from the name (Debian's libopenblas64 calls its 64-bit routine dsyevd_ too): every
// integer is handed over as 64 bits, which a 32-bit routine reads and writes the lower half of, and a first workspace
// query shows which half came back.
//
// Threads are the library's own (OPENBLAS_NUM_THREADS, OMP_NUM_THREADS, MKL_NUM_THREADS); ours wait meanwhile. Calls take
// turns, and cannot be cancelled half-way. The bits may depend on the library, its version, its threads and the CPU.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "ops/eigen.h"

namespace galvani::lapack {

struct Status {
  std::string name;     // "LAPACK 3.9.1, OpenBLAS 0.3.21, 32-bit integers"; empty: the own routine
  std::string path;     // of the library, as the loader found it
  std::string problem;  // one line, when it is asked for and unusable: what is missing, and what to do
};
// Of this process: GALVANI_LAPACK is read and the library opened once.
const Status& status();

// Whether to use it. Throws UNSUPPORTED when it is asked for and unusable.
bool in_use();

// As galvani::symmetric_eigen, by dsyevd. Any leading > 0 computes all k vectors: 24k² bytes in all instead of 8k². Entries must be finite.
// Throws UNSUPPORTED where the library does not converge, or where k needs 64-bit integers and it has 32.
SymmetricEigen symmetric_eigen(std::vector<double>& a, int64_t k, int64_t leading);

}  // namespace galvani::lapack
