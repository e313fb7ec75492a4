// The best approximation of an update by a low-rank product, as an adapter stores it: Δ ≈ B A (Eckart & Young 1936).
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "ops/gram.h"

namespace galvani {

struct LowRankOptions {
  int64_t rank = 16;  // at most
  double energy = 1;  // of Σσ², the share at which to stop earlier
  double least = 0;   // singular values at or below it are left out
  DType dtype = DType::kF32;
  bool transposed = false;  // factors of Δᵀ, as embeddings store them: A (rank, rows), B (columns, rank)
};

struct LowRank {
  int64_t rank = 0;
  std::vector<double> values;  // (rank) singular values kept, descending
  double square = 0;           // ‖Δ‖_F², of which Σ values² is kept
};

// Δ = after − before of one matrix; writes A = √Σ Vᵀ (rank, columns) and B = U √Σ (rows, rank) to a file of its own
// under the given names. A rank of 0 (no change) writes no tensor. SHAPE_MISMATCH, UNSUPPORTED, BAD_FILE (not finite).
LowRank write_low_rank(const std::string& path, const std::map<std::string, std::string>& metadata,
                       const Checkpoint& before, const std::string& before_name, const Checkpoint& after,
                       const std::string& after_name, const std::string& name_a, const std::string& name_b,
                       const LowRankOptions& options, ThreadPool& pool, const Poll& poll);

}  // namespace galvani
