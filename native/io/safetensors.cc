#include "io/safetensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>

#include "core/status.h"
#include "io/json.h"

namespace galvani {
namespace {

constexpr int64_t kMaxHeader = 100'000'000;  // the reference reader's limit
constexpr size_t kMaxRank = 64;
constexpr const char* kExotic[] = {"F4", "F6_E2M3", "F6_E3M2", "C64", "C128"};
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kSingleName = "model.safetensors";

struct Record {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  int64_t begin, end;  // within the data section
};

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}
bool is_folder(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}
bool ends_with(const std::string& text, std::string_view tail) {
  return text.size() >= tail.size() && text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

DType dtype_of(const std::string& text, const std::string& where) {
  if (const auto dtype = parse_dtype(text)) return *dtype;
  for (const char* exotic : kExotic)
    if (text == exotic) throw Error(Code::kUnsupported, where + ": element type " + text + " is not supported");
  throw Error(Code::kBadFile, where + ": unknown dtype " + quoted(text));
}

// Bytes of a shape, or nothing when the product leaves int64. A zero dimension does not excuse an overflow before it.
std::optional<int64_t> checked_bytes(const std::vector<int64_t>& shape, DType dtype) {
  int64_t bytes = dtype_size(dtype);
  for (const int64_t dimension : shape)
    if (dimension < 0 || __builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  return bytes;
}

Record read_record(JsonReader& json, const std::string& file, const std::string& name) {
  const std::string where = file + ": tensor " + quoted(name);
  std::optional<std::string> dtype;
  std::optional<std::vector<int64_t>> shape, offsets;
  auto sizes = [&](size_t limit) {
    std::vector<int64_t> values;
    json.array([&] {
      if (values.size() == limit)
        throw Error(Code::kBadFile, where + ": more than " + std::to_string(limit) + " entries in an array");
      values.push_back(json.size());
    });
    return values;
  };
  try {
    json.object([&](const std::string& key) {
      if (key == "dtype")
        dtype = json.string();
      else if (key == "shape")
        shape = sizes(kMaxRank);
      else if (key == "data_offsets")
        offsets = sizes(2);
      else
        json.skip();
    });
  } catch (const Error& error) {
    const std::string text = error.what();
    if (text.starts_with(where)) throw;
    throw Error(error.code(),
                where + text.substr(std::min(file.size(), text.size())));  // the reader named the file only
  }
  if (!dtype || !shape || !offsets) {
    const char* missing = !dtype ? "dtype" : !shape ? "shape" : "data_offsets";
    throw Error(Code::kBadFile, where + ": no " + missing);
  }
  if (offsets->size() != 2) throw Error(Code::kBadFile, where + ": data_offsets: expected [begin, end]");
  Record record{name, dtype_of(*dtype, where), *shape, (*offsets)[0], (*offsets)[1]};
  if (record.begin > record.end) {
    throw Error(Code::kBadFile, where + ": data_offsets begin " + std::to_string(record.begin) + " is after end " +
                                    std::to_string(record.end));
  }
  const auto bytes = checked_bytes(record.shape, record.dtype);
  if (!bytes) throw Error(Code::kBadFile, where + ": shape " + shape_text(record.shape) + " overflows");
  if (*bytes != record.end - record.begin) {
    throw Error(Code::kBadFile, where + ": " + *dtype + shape_text(record.shape) + " needs " + std::to_string(*bytes) +
                                    " bytes, data_offsets hold " + std::to_string(record.end - record.begin));
  }
  return record;
}

// Each tensor begins where the one before it ends, and the last ends with the file.
void check_cover(std::vector<Record>& records, int64_t data_bytes, const std::string& file) {
  std::sort(records.begin(), records.end(), [](const Record& a, const Record& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t at = 0;
  for (const Record& record : records) {
    const std::string where = file + ": tensor " + quoted(record.name);
    if (record.begin < at)
      throw Error(Code::kBadFile, where + ": begins at " + std::to_string(record.begin) +
                                      ", inside the tensor that ends at " + std::to_string(at));
    if (record.begin > at)
      throw Error(Code::kBadFile, where + ": begins at " + std::to_string(record.begin) + ", leaving a hole from " +
                                      std::to_string(at));
    at = record.end;
    if (at > data_bytes)
      throw Error(Code::kBadFile, where + ": ends at " + std::to_string(at) + ", the file holds " +
                                      std::to_string(data_bytes) + " data bytes: truncated");
  }
  if (at != data_bytes) {
    throw Error(Code::kBadFile, file + ": " + std::to_string(data_bytes - at) +
                                    " data bytes belong to no tensor (tensors end at " + std::to_string(at) +
                                    ", data at " + std::to_string(data_bytes) + ")");
  }
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

void Checkpoint::add_file(const std::string& path) {
  const auto file = MappedFile::open(path);
  if (file->size() < 8)
    throw Error(Code::kBadFile,
                path + ": " + std::to_string(file->size()) + " bytes, too short for a safetensors header");
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | static_cast<uint8_t>(file->data()[i]);
  if (header > static_cast<uint64_t>(kMaxHeader))
    throw Error(Code::kBadFile, path + ": header of " + std::to_string(header) + " bytes, at most " +
                                    std::to_string(kMaxHeader) + " allowed");
  const int64_t start = 8 + static_cast<int64_t>(header);
  if (start > file->size())
    throw Error(Code::kBadFile, path + ": header ends at byte " + std::to_string(start) + ", the file at " +
                                    std::to_string(file->size()) + ": truncated");
  const std::string_view text(reinterpret_cast<const char*>(file->data()) + 8, static_cast<size_t>(header));
  if (text.empty() || text[0] != '{') throw Error(Code::kBadFile, path + ": the header does not begin with '{'");

  JsonReader json(text, path);
  std::vector<Record> records;
  std::map<std::string, std::string> metadata;
  json.object([&](const std::string& name) {
    if (name == "__metadata__")
      json.object([&](const std::string& key) { metadata[key] = json.string(); });
    else
      records.push_back(read_record(json, path, name));
  });
  json.finish();
  check_cover(records, file->size() - start, path);

  const size_t index = files_.size();
  files_.push_back(file);
  metadata_.merge(metadata);
  bytes_ += file->size() - start;
  for (Record& record : records) {
    const std::byte* data = file->data() + start + record.begin;
    const bool aligned = reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(dtype_size(record.dtype)) == 0;
    Entry entry{TensorView{record.dtype, std::move(record.shape), aligned ? data : nullptr}, index, data, aligned};
    const auto [other, fresh] = entries_.emplace(record.name, std::move(entry));
    if (!fresh)
      throw Error(Code::kBadFile,
                  path + ": tensor " + quoted(record.name) + " is also in " + files_[other->second.file]->path());
  }
}

std::shared_ptr<Checkpoint> Checkpoint::open(const std::string& path) {
  auto checkpoint = std::shared_ptr<Checkpoint>(new Checkpoint(path));
  std::string index_path;
  if (is_folder(path)) {
    const std::string folder = ends_with(path, "/") ? path : path + "/";
    index_path = folder + kIndexName;
    if (exists(folder + kSingleName)) {  // transformers prefers the single file as well
      checkpoint->add_file(folder + kSingleName);
      return checkpoint;
    }
    if (!exists(index_path))
      throw Error(Code::kFileNotFound, path + ": neither " + kSingleName + " nor " + kIndexName + " in this folder");
  } else if (ends_with(path, ".index.json")) {
    index_path = path;
  } else {
    checkpoint->add_file(path);
    return checkpoint;
  }

  const auto index = MappedFile::open(index_path);
  if (index->size() > kMaxHeader)
    throw Error(Code::kBadFile, index_path + ": index of " + std::to_string(index->size()) + " bytes, at most " +
                                    std::to_string(kMaxHeader) + " allowed");
  std::map<std::string, std::string> shard_of;
  bool has_map = false;
  JsonReader json({reinterpret_cast<const char*>(index->data()), static_cast<size_t>(index->size())}, index_path);
  json.object([&](const std::string& key) {
    if (key != "weight_map") return json.skip();
    has_map = true;
    json.object([&](const std::string& name) {
      std::string shard = json.string();
      // A shard lies beside its index: nothing a downloaded file says may open another folder.
      if (shard.empty() || shard == "." || shard == ".." ||
          shard.find_first_of(std::string("/\\\0", 3)) != std::string::npos)
        throw Error(Code::kBadFile,
                    index_path + ": tensor " + quoted(name) + ": shard " + quoted(shard) + " is not a plain file name");
      shard_of[name] = std::move(shard);
    });
  });
  json.finish();
  if (!has_map) throw Error(Code::kBadFile, index_path + ": no weight_map");

  std::vector<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.push_back(shard);
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  const size_t slash = index_path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : index_path.substr(0, slash + 1);
  for (const std::string& shard : shards) {
    if (!exists(folder + shard))
      throw Error(Code::kFileNotFound, folder + shard + ": missing shard, named by " + index_path);
    checkpoint->add_file(folder + shard);
  }
  for (const auto& [name, shard] : shard_of) {
    const auto found = checkpoint->entries_.find(name);
    if (found == checkpoint->entries_.end() || checkpoint->files_[found->second.file]->path() != folder + shard)
      throw Error(Code::kBadFile, index_path + ": tensor " + quoted(name) + " is not in shard " + folder + shard);
  }
  return checkpoint;
}

std::shared_ptr<Checkpoint> Checkpoint::hold(std::string what, const std::vector<Held>& tensors) {
  auto checkpoint = std::shared_ptr<Checkpoint>(new Checkpoint(std::move(what)));
  // One allocation: what is large enough to matter is then a mapping of its own, and given back whole.
  constexpr int64_t kAlign = 64;
  std::vector<int64_t> offsets;
  int64_t end = 0;
  for (const Held& tensor : tensors) {
    const auto bytes = checked_bytes(tensor.shape, tensor.dtype);
    int64_t aligned = 0;
    if (!bytes || __builtin_add_overflow(*bytes, kAlign - 1, &aligned) ||
        __builtin_add_overflow(end, aligned / kAlign * kAlign, &end))
      throw Error(Code::kBadArgument, checkpoint->path_ + ": tensor " + quoted(tensor.name) + ": shape overflows");
    offsets.push_back(end - aligned / kAlign * kAlign);
    checkpoint->bytes_ += *bytes;
  }
  checkpoint->copies_.push_back(std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(end) + kAlign));
  const std::byte* start = checkpoint->copies_.back().get();
  start += (kAlign - reinterpret_cast<uintptr_t>(start) % kAlign) % kAlign;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, dtype, shape] = tensors[i];
    const std::byte* data = start + offsets[i];
    if (!checkpoint->entries_.emplace(name, Entry{{dtype, shape, data}, kHeld, data, true}).second)
      throw Error(Code::kBadArgument, checkpoint->path_ + ": tensor " + quoted(name) + " is given twice");
  }
  return checkpoint;
}

std::byte* Checkpoint::held(const std::string& name) {
  const Entry& found = entry(name);
  GALVANI_CHECK(found.file == kHeld);
  return const_cast<std::byte*>(found.mapped);  // ours, from hold()
}

const TensorView& Checkpoint::view_of(const Entry& entry) const {
  if (entry.aligned) return entry.view;
  // Writers before safetensors 0.3 did not pad the header; such tensors are copied once, so that readers may assume
  // element alignment.
  std::lock_guard lock(copies_mutex_);
  if (!entry.view.data) {
    const auto bytes = static_cast<size_t>(entry.view.bytes());
    copies_.push_back(std::make_unique<std::byte[]>(bytes + 1));
    if (bytes) std::memcpy(copies_.back().get(), entry.mapped, bytes);
    entry.view.data = copies_.back().get();
  }
  return entry.view;
}

const TensorView* Checkpoint::find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &view_of(found->second);
}

const Checkpoint::Entry& Checkpoint::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) return found->second;
  std::string message = path_ + ": no tensor " + quoted(name);
  constexpr size_t kLongest = 256, kMostNames = 20'000;
  if (name.size() <= kLongest && entries_.size() <= kMostNames) {
    const std::string* best = nullptr;
    size_t least = std::numeric_limits<size_t>::max();
    for (const auto& [candidate, unused] : entries_) {
      if (candidate.size() > kLongest) continue;
      const size_t distance = edit_distance(name, candidate);
      if (distance < least) least = distance, best = &candidate;
    }
    if (best) message += ", closest is " + quoted(*best);
  }
  throw Error(Code::kTensorMissing, message + " (" + std::to_string(entries_.size()) + " tensors)");
}

const TensorView& Checkpoint::at(const std::string& name) const { return view_of(entry(name)); }
const std::string& Checkpoint::file_of(const std::string& name) const {
  const Entry& found = entry(name);
  return found.file == kHeld ? path_ : files_[found.file]->path();
}

const MappedFile& Checkpoint::file_of(const Entry& entry) const {
  if (entry.file == kHeld) throw Error(Code::kUnsupported, path_ + ": its tensors lie in memory, not in a file");
  return *files_[entry.file];
}

Checkpoint::Stored Checkpoint::stored(const std::string& name) const {
  const Entry& found = entry(name);
  const MappedFile& file = file_of(found);
  return {found.view.dtype, found.view.shape, file.path(), found.mapped - file.data(), found.view.bytes()};
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(entries_.size());
  for (const auto& [name, unused] : entries_) names.push_back(name);
  return names;
}

std::vector<std::string> Checkpoint::files() const {
  std::vector<std::string> paths;
  for (const auto& file : files_) paths.push_back(file->path());
  return paths;
}

std::pair<size_t, int64_t> Checkpoint::place_of(const std::string& name) const {
  const Entry& found = entry(name);
  return {found.file, found.mapped - file_of(found).data()};
}

void Checkpoint::will_need(const std::string& name, int64_t begin, int64_t end) const {
  const Entry& found = entry(name);
  if (found.file == kHeld) return;
  const int64_t size = dtype_size(found.view.dtype);
  const MappedFile& file = *files_[found.file];
  file.will_need(found.mapped - file.data() + begin * size, (end - begin) * size);
}

void Checkpoint::done_with(const std::string& name, int64_t begin, int64_t end) const {
  const Entry& found = entry(name);
  if (found.file == kHeld) return;
  const int64_t size = dtype_size(found.view.dtype);
  const MappedFile& file = *files_[found.file];
  file.done_with(found.mapped - file.data() + begin * size, (end - begin) * size);
}

void Checkpoint::done_with(const std::string& name) const { done_with(name, 0, entry(name).view.elements()); }

}  // namespace galvani
