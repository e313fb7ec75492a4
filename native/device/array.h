// Device memory as a value: owned, typed, freed with its owner. Transfers wait.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/status.h"
#include "device/backend.h"

namespace galvani {

// Throws INTERNAL with the backend's sentence.
inline void check_device(const gpu::Backend& backend, int code, const char* what) {
  if (code != 0) throw Error(Code::kInternal, std::string(what) + " on the " + backend.name + " device: " + backend.last_error());
}

template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  // Content undefined.
  DeviceArray(const gpu::Backend& backend, int64_t size) : backend_(&backend), size_(size) {
    void* pointer = nullptr;
    if (backend.alloc(&pointer, bytes()) != 0)
      throw Error(Code::kOutOfMemory, std::string("device memory: ") + backend.last_error());
    data_ = static_cast<T*>(pointer);
  }
  DeviceArray(const gpu::Backend& backend, const std::vector<T>& values)
      : DeviceArray(backend, static_cast<int64_t>(values.size())) {
    write(values);
  }
  ~DeviceArray() {
    if (data_) backend_->free(data_);
  }
  DeviceArray(DeviceArray&& other) noexcept { swap(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    swap(other);
    return *this;
  }

  T* data() const { return data_; }
  int64_t size() const { return size_; }
  int64_t bytes() const { return size_ * static_cast<int64_t>(sizeof(T)); }

  void write(const std::vector<T>& values) {
    GALVANI_CHECK(static_cast<int64_t>(values.size()) == size_);
    check_device(*backend_, backend_->copy_in(data_, values.data(), bytes(), nullptr), "copy_in");
  }
  std::vector<T> read() const {
    std::vector<T> out(static_cast<size_t>(size_));
    if (size_ == 0) return out;
    check_device(*backend_, backend_->copy_out(out.data(), data_, bytes(), nullptr), "copy_out");
    check_device(*backend_, backend_->sync(nullptr), "sync");
    return out;
  }

 private:
  void swap(DeviceArray& other) {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  const gpu::Backend* backend_ = nullptr;
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace galvani
