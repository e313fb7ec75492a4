#include "weights/blend.h"

#include <atomic>
#include <cmath>
#include <cstring>

#include "core/status.h"
#include "io/json.h"
#include "ops/combine.h"
#include "weights/source.h"

namespace galvani {
namespace {

// The mapped bytes themselves: the engine reads them from there, too.
class ViewSource final : public FloatSource {
 public:
  explicit ViewSource(const TensorView& view) : view_(view) {}
  void read(int64_t begin, int64_t count, float* out) const override {
    widen(view_.data + begin * dtype_size(view_.dtype), view_.dtype, count, out);
  }

 private:
  const TensorView& view_;
};

bool is_weight(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }

struct Pair {
  const TensorView *a, *b;
};

Pair views(const BlendTensor& tensor) {
  const Pair pair{&tensor.a->at(tensor.a_name), &tensor.b->at(tensor.b_name)};
  const auto both = [&](const std::string& of_a, const std::string& of_b) {
    return "blend: tensor " + quoted(tensor.name) + ": " + of_a + " of " + quoted(tensor.a_name) + " in " +
           tensor.a->path() + " and " + of_b + " of " + quoted(tensor.b_name) + " in " + tensor.b->path();
  };
  if (pair.a->shape != pair.b->shape)
    throw Error(Code::kShapeMismatch,
                both(shape_text(pair.a->shape), shape_text(pair.b->shape)) + "; expected one shape");
  if (!is_weight(pair.a->dtype) || !is_weight(pair.b->dtype))
    throw Error(Code::kUnsupported,
                both(dtype_name(pair.a->dtype), dtype_name(pair.b->dtype)) + "; F32, F16 and BF16 can be blended");
  return pair;
}

bool is_equal(const Pair& pair) {
  return pair.a->dtype == pair.b->dtype &&
         (pair.a->data == pair.b->data || pair.a->bytes() == 0 ||
          std::memcmp(pair.a->data, pair.b->data, static_cast<size_t>(pair.a->bytes())) == 0);
}

}  // namespace

Blend blend(const std::string& what, const std::vector<BlendTensor>& tensors, double alpha, ThreadPool& pool,
            const MergeProgress& progress, const std::function<void()>& poll) {
  if (!std::isfinite(alpha)) throw Error(Code::kBadArgument, "blend: alpha: expected a finite number");
  Blend out;
  std::vector<const BlendTensor*> different;
  std::vector<Checkpoint::Held> held;
  for (const BlendTensor& tensor : tensors) {
    if (poll) poll();
    const Pair pair = views(tensor);
    if (is_equal(pair)) {
      out.equal.push_back(tensor.name);
      continue;
    }
    different.push_back(&tensor);
    held.push_back({tensor.name, pair.a->dtype == pair.b->dtype ? pair.a->dtype : DType::kF32, pair.a->shape});
  }
  out.checkpoint = Checkpoint::hold(what, held);
  std::atomic<int64_t> done{0};
  for (size_t i = 0; i < different.size(); ++i) {
    const Pair pair = views(*different[i]);
    const ViewSource a(*pair.a), b(*pair.b);
    std::byte* to = out.checkpoint->held(held[i].name);
    const DType dtype = held[i].dtype;
    CombineJob job;
    job.method = "linear";
    job.name = held[i].name;
    job.shape = held[i].shape;
    job.inputs = {&a, &b};
    job.shared = {{"normalize", 0}};
    job.each = {{"weight", {1 - alpha, alpha}}};
    combine(
        job, pool,
        [&](int64_t begin, int64_t count, const float* values) {
          narrow(values, count, dtype, to + begin * dtype_size(dtype));
          const int64_t now = done.fetch_add(count * dtype_size(dtype)) + count * dtype_size(dtype);
          if (progress) progress(now, out.checkpoint->bytes());
        },
        poll);
  }
  return out;
}

}  // namespace galvani
