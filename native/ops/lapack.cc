#include "ops/lapack.h"

#include <dlfcn.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <mutex>

#include "core/status.h"

namespace galvani::lapack {
namespace {

// One declaration for both widths of integer: a 32-bit routine sees the lower half of each.
static_assert(std::endian::native == std::endian::little);
// The two lengths at the end are what Fortran compilers append for the two strings.
using Dsyevd = void (*)(const char* job, const char* triangle, const int64_t* n, double* a, const int64_t* lda, double* w,
                        double* work, const int64_t* lwork, int64_t* iwork, const int64_t* liwork, int64_t* info,
                        size_t job_length, size_t triangle_length);
using Ilaver = void (*)(int64_t* major, int64_t* minor, int64_t* patch);

struct Spelling {
  const char *prefix, *suffix, *openblas_suffix;
};
constexpr Spelling kSpellings[] = {{"", "_64_", "64_"}, {"", "_", ""}, {"scipy_", "_64_", "64_"}, {"scipy_", "_", ""}};

constexpr const char* kRemedy = "; unset GALVANI_LAPACK for galvani's own routine";

// The lower half, as signed: what both widths have in common.
int32_t low(int64_t value) { return static_cast<int32_t>(value); }

struct Library {
  Status status;
  Dsyevd dsyevd = nullptr;
  bool wide = false;  // 64-bit integers
  std::mutex turn;

  Library() {
    const char* name = std::getenv("GALVANI_LAPACK");
    if (!name || !*name) return;
    const std::string why = open(name);
    if (!why.empty()) status.problem = "GALVANI_LAPACK=" + std::string(name) + why + kRemedy;
  }

 private:
  // Sets dsyevd and status, or says why not.
  std::string open(const char* name) {
    void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
      const char* why = dlerror();
      return std::string(" does not load: ") + (why ? why : "no reason given");
    }
    for (const Spelling& spelling : kSpellings) {
      const std::string symbol = spelling.prefix + std::string("dsyevd") + spelling.suffix;
      const auto found = reinterpret_cast<Dsyevd>(dlsym(handle, symbol.c_str()));
      if (!found) continue;
      if (!measure_width(found)) return ": its " + symbol + " does not answer a workspace query as LAPACK's does";
      dsyevd = found;
      status.name = describe(handle, spelling);
      Dl_info info{};
      status.path = dladdr(reinterpret_cast<void*>(found), &info) && info.dli_fname ? info.dli_fname : name;
      return "";
    }
    dlclose(handle);
    return " is no LAPACK: it has none of dsyevd_64_, dsyevd_, scipy_dsyevd_64_, scipy_dsyevd_";
  }

  bool measure_width(Dsyevd routine) {
    const int64_t n = 2, query = -1;
    double a[4] = {}, w[2] = {}, work = 0;
    int64_t iwork = -1, info = -1;  // 3 + 5n = 13 comes back: into all of iwork, or into its lower half
    routine("V", "L", &n, a, &n, w, &work, &query, &iwork, &query, &info, 1, 1);
    wide = iwork >= 0;
    return low(info) == 0 && low(iwork) > 0 && work >= 1;
  }

  std::string describe(void* handle, const Spelling& spelling) const {
    const std::string prefix = spelling.prefix;
    std::string out = "LAPACK";
    if (const auto ilaver = reinterpret_cast<Ilaver>(dlsym(handle, (prefix + "ilaver" + spelling.suffix).c_str()))) {
      int64_t version[3] = {};
      ilaver(&version[0], &version[1], &version[2]);
      for (int i = 0; i < 3; ++i) out += (i == 0 ? " " : ".") + std::to_string(low(version[i]));
    }
    using Config = const char* (*)();
    const std::string config_name = prefix + "openblas_get_config" + spelling.openblas_suffix;
    if (const auto config = reinterpret_cast<Config>(dlsym(handle, config_name.c_str()))) {
      const std::string text = config();  // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH …"
      out += ", " + text.substr(0, text.find(' ', text.find(' ') + 1));
    }
    return out + (wide ? ", 64-bit integers" : ", 32-bit integers");
  }
};

Library& library() {
  static Library instance;
  return instance;
}

}  // namespace

const Status& status() { return library().status; }

bool in_use() {
  const Status& found = status();
  if (!found.problem.empty()) throw Error(Code::kUnsupported, found.problem);
  return !found.name.empty();
}

SymmetricEigen symmetric_eigen(std::vector<double>& a, int64_t k, int64_t leading) {
  SymmetricEigen out;
  if (k == 0) return out;
  GALVANI_CHECK(in_use());
  Library& lib = library();
  const std::lock_guard turn(lib.turn);
  leading = std::min(leading, k);
  const char* job = leading > 0 ? "V" : "N";
  const auto refuse = [&](const std::string& why) {
    throw Error(Code::kUnsupported, lib.status.name + " (" + lib.status.path + "), Gram matrix of side " +
                                        std::to_string(k) + ": " + why + kRemedy);
  };
  // Our row-major upper triangle is its column-major lower one.
  std::vector<double> ascending(static_cast<size_t>(k));
  const auto call = [&](double* work, int64_t lwork, int64_t* iwork, int64_t liwork) {
    int64_t info = 0;
    lib.dsyevd(job, "L", &k, a.data(), &k, ascending.data(), work, &lwork, iwork, &liwork, &info, 1, 1);
    if (low(info) > 0) refuse("dsyevd did not converge, info = " + std::to_string(low(info)));
    if (low(info) < 0) refuse("dsyevd refuses its arguments, info = " + std::to_string(low(info)));
  };
  // At least 1 + 6k + 2k² doubles with vectors, counted in its integers.
  if (!lib.wide && leading > 0 && 1 + 6 * k + 2 * k * k > std::numeric_limits<int32_t>::max())
    refuse("needs a library with 64-bit integers");
  double wanted = 0;
  int64_t wanted_integers = 0;
  call(&wanted, -1, &wanted_integers, -1);
  std::vector<double> work(static_cast<size_t>(wanted));
  std::vector<int64_t> iwork(static_cast<size_t>(low(wanted_integers)));
  call(work.data(), static_cast<int64_t>(work.size()), iwork.data(), static_cast<int64_t>(iwork.size()));

  out.values.assign(ascending.rbegin(), ascending.rend());
  for (int64_t i = 0; i < leading; ++i) {
    const double* vector = a.data() + (k - 1 - i) * k;  // its column, our row
    out.vectors.insert(out.vectors.end(), vector, vector + k);
  }
  return out;
}

}  // namespace galvani::lapack
