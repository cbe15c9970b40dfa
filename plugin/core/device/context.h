// The CUDA backend as this process uses it, for one device.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "plugin/core/result.h"
#include "protocol/device_backend.h"
#include "protocol/message.h"

namespace ultraep {

class DeviceContext {
 public:
  // Loads the backend and takes the device, -1: that of the calling thread's current context.
  // REFUSED with what was found and what is needed; `context` is then null.
  static Result Open(int32_t device, std::shared_ptr<DeviceContext>* context);

  DeviceBackend& backend() const { return *backend_; }
  uint32_t device() const { return device_; }
  const DeviceInfo& info() const { return info_; }
  // What a join says of it.
  JoinDevice Description() const;

 private:
  DeviceContext(DeviceBackend* backend, uint32_t device) : backend_(backend), device_(device) {}

  DeviceBackend* const backend_;  // lives as long as the process
  const uint32_t device_;
  DeviceInfo info_;
};

// Device or pinned memory of a context, freed with its owner.
class DeviceBytes {
 public:
  DeviceBytes() = default;
  DeviceBytes(DeviceBytes&& o) noexcept
      : context_(std::exchange(o.context_, nullptr)),
        at_(o.at_),
        host_(o.host_),
        bytes_(o.bytes_) {}
  DeviceBytes& operator=(DeviceBytes&& o) noexcept {
    std::swap(context_, o.context_);
    std::swap(at_, o.at_);
    std::swap(host_, o.host_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~DeviceBytes();

  // Zeroed.
  Result Allocate(const DeviceContext& context, uint64_t bytes);
  Result AllocatePinned(const DeviceContext& context, uint64_t bytes);
  explicit operator bool() const { return context_ != nullptr; }

  unsigned char* at() const { return static_cast<unsigned char*>(at_); }  // the device's address
  unsigned char* host() const { return static_cast<unsigned char*>(host_); }  // of pinned memory
  uint64_t bytes() const { return bytes_; }

 private:
  const DeviceContext* context_ = nullptr;
  void* at_ = nullptr;
  void* host_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace ultraep
