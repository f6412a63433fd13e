// A file descriptor owned by a JavaScript object: closed by close(), by the garbage collector, or when the environment
// ends, whichever comes first. release() hands it to somebody else (net, dgram).
#pragma once

#include <napi.h>

#include <cstdint>
#include <optional>
#include <string>

#include "unique_fd.h"

namespace sidestep {

/** What a map looks like; it cannot change while the descriptor is open, so it is asked for once. */
struct MapShape {
  std::uint32_t type = 0;
  std::uint32_t id = 0;
  std::uint32_t key_bytes = 0;
  std::uint32_t value_bytes = 0;
  std::uint32_t max_entries = 0;
  std::string name;
};

class OwnedFd : public Napi::ObjectWrap<OwnedFd> {
 public:
  static void Init(Napi::Env env, Napi::Object exports);
  /** Wraps `fd`; it is closed if that fails, as in an environment that is ending: the result is undefined then. */
  static Napi::Value New(Napi::Env env, UniqueFd fd);
  /** The open one in `value`, or nullptr: with a pending JavaScript exception, unless the environment is ending. */
  static OwnedFd* Of(const Napi::Value& value);
  /** The descriptor in `value`, or -1 as with Of. */
  static int FdOf(const Napi::Value& value);
  /** A descriptor of one's own for the same, for use on another thread; closed on failure, as with Of. */
  static UniqueFd DuplicateOf(const Napi::Value& value);

  explicit OwnedFd(const Napi::CallbackInfo& info);

  [[nodiscard]] int Get() const { return fd_.Get(); }
  /** Leaves this one closed. */
  [[nodiscard]] UniqueFd Take() {
    map_shape_.reset();
    return std::move(fd_);
  }
  std::optional<MapShape> map_shape_;

 private:
  Napi::Value Fd(const Napi::CallbackInfo& info);
  Napi::Value Release(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  UniqueFd fd_;
};

}  // namespace sidestep
