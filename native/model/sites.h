// The one table of hook sites. Order is the order in which a layer passes them.
#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

namespace galvani {

enum class Tower : uint8_t { kVision, kProjector, kDecoder };

enum class Site : uint8_t {
  kResidPre,    // (rows, C) stream entering the layer
  kQ,           // (rows, H, D) after bias and RoPE
  kK,           // (rows, G, D) after bias and RoPE
  kV,           // (rows, G, D) after bias
  kAttnLogits,  // (rows, H, keys) scaled scores; never stored
  kPattern,     // (rows, H, keys) probabilities after softmax; never stored
  kZ,           // (rows, H, D) before the output projection
  kAttnOut,     // (rows, C) what attention adds
  kResidMid,    // (rows, C)
  kMlpOut,      // (rows, C) what the MLP adds
  kResidPost,   // (rows, C) stream leaving the layer
  kLogits,      // (rows, V) after final norm and head
};

struct SiteRow {
  Site site;
  const char* name;
  bool per_head;
};

inline constexpr SiteRow kSites[] = {
    {Site::kResidPre, "resid_pre", false},
    {Site::kQ, "q", true},
    {Site::kK, "k", true},
    {Site::kV, "v", true},
    {Site::kAttnLogits, "attn_logits", true},
    {Site::kPattern, "pattern", true},
    {Site::kZ, "z", true},
    {Site::kAttnOut, "attn_out", false},
    {Site::kResidMid, "resid_mid", false},
    {Site::kMlpOut, "mlp_out", false},
    {Site::kResidPost, "resid_post", false},
    {Site::kLogits, "logits", false},
};

inline const char* site_name(Site site) { return kSites[static_cast<int>(site)].name; }
inline std::optional<Site> parse_site(std::string_view name) {
  for (const SiteRow& row : kSites)
    if (name == row.name) return row.site;
  return std::nullopt;
}

}  // namespace galvani
